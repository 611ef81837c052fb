"""Bytes of weights, gradients and moments on one process under every way of sharding."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple, get_args

from torch import Tensor

from dinov3.config.blocks.model import Strategy
from dinov3.distributed.parallel import HYBRID

FP32 = 4


class State(NamedTuple):
    """Bytes on one process that are there from step to step, and the gradients of a step."""

    strategy: str
    weights: int
    frozen: int  # the EMA and other teachers
    moments: int
    gradients: int

    @property
    def total(self) -> int:
        return self.weights + self.frozen + self.moments + self.gradients


def states(trained: Iterable[Tensor], frozen: Iterable[Tensor], processes: int, per_machine: int) -> list[State]:
    """Of the first process, which has the largest shards; all numbers are fp32."""
    trained, frozen, found = list(trained), list(frozen), []
    for strategy in get_args(Strategy):
        if strategy == "auto" or (processes == 1 and strategy != "NO_SHARD"):
            continue
        pieces = {"NO_SHARD": 1}.get(strategy, min(per_machine, processes) if strategy in HYBRID else processes)
        learns = FP32 * sum(shard(p, pieces) for p in trained if p.requires_grad)
        whole = FP32 * sum(shard(p, pieces) for p in trained)
        found.append(State(strategy, whole, FP32 * sum(shard(p, pieces) for p in frozen), 2 * learns, learns))
    return found


def shard(parameter: Tensor, pieces: int) -> int:
    """Numbers of the first of ``pieces`` shards: FSDP2 cuts along the first dimension, all but the last pieces alike."""
    rows, *rest = parameter.shape
    return -(-rows // pieces) * prod(rest)
