"""Models spread over processes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.fsdp import fully_shard

from dinov3.distributed.context import world_size


def shard_frozen(model: nn.Module, blocks: Iterable[nn.Module]) -> bool:
    """FSDP2 for a model that only infers: each process keeps a part of every block and gathers it when it runs.

    Weights keep their dtype. Every process must call ``model`` equally often. False when there is nothing to share
    with: one process.
    """
    if world_size() == 1:
        return False
    for block in blocks:
        fully_shard(block)
    fully_shard(model, reshard_after_forward=True)  # the default keeps the root whole for a backward that never comes
    return True
