"""Runs that were started together and share work: what their processes say to one another beside their own group.

A run by itself has no peers: ``ALONE`` answers every question at once, by itself. The object is passed along; nothing
here is remembered by the module.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.distributed import context


class Peers:
    """The processes of all runs that were started together. This class is one run by itself."""

    name = ""  # of this run among several
    ranks: tuple[range, ...] = ()  # the processes of each run; none when alone

    @property
    def several(self) -> bool:
        """Whether there are other runs."""
        return bool(self.ranks)

    @property
    def number(self) -> int:
        """This process's number among those of all runs."""
        return context.rank()

    @property
    def is_first(self) -> bool:
        """True in the one process of all runs that speaks for them: progress, requeueing."""
        return context.is_main()

    @property
    def per_machine(self) -> int:
        """This run's processes on one machine; 0 when some machine has more of them than another."""
        return context.per_machine()

    def gather(self, x: Tensor) -> Tensor:
        """``x [...]`` of every process of all runs, ``[processes, ...]``; the same shape everywhere, no gradient."""
        return x[None]

    def numbers(self, value: float) -> list[float]:
        """Every process's ``value`` on every process of all runs, in their order; alone, only this process's."""
        return [value]

    def any_of(self, flag: bool) -> bool:
        """Whether ``flag`` is True in any process of all runs."""
        return any(self.numbers(flag))

    def texts(self, value: str | None) -> list[str | None]:
        """Every process's ``value`` on every process of all runs, in their order; alone, only this process's."""
        return [value]

    def barrier(self) -> None:
        """Wait for every process of all runs."""
        context.barrier()


ALONE = Peers()


class Together(Peers):
    """One of several runs.

    ``ranks``: the processes of each run, in the order they were started in; ``started_as``: this process among all.
    ``words``: torch's ProcessGroupGloo, whose methods its stubs leave out, for numbers and texts; ``tensors``: the same,
    or ProcessGroupNCCL, for tensors of the device.
    """

    def __init__(self, ranks: Sequence[range], started_as: int, words: Any, tensors: Any, name: str = "") -> None:
        self.ranks, self.started_as, self.name = tuple(ranks), started_as, name
        self.words, self.tensors = words, tensors

    @property
    def number(self) -> int:
        return self.started_as

    @property
    def is_first(self) -> bool:
        return self.started_as == 0

    @property
    def per_machine(self) -> int:
        return context.per_machine(next(own for own in self.ranks if self.started_as in own))

    @property
    def size(self) -> int:
        """How many processes there are."""
        return sum(len(ranks) for ranks in self.ranks)

    def gather(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        self.tensors.allgather([parts], [x.detach().contiguous()]).wait()
        return torch.stack(parts)

    def numbers(self, value: float) -> list[float]:
        return self._exchanged(torch.tensor([value], dtype=torch.float64)).flatten().tolist()

    def texts(self, value: str | None) -> list[str | None]:
        data = torch.tensor(list((value or "").encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self.numbers(-1 if value is None else len(data))]
        padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
        padded[: len(data)] = data
        rows = self._exchanged(padded).tolist()
        return [None if size < 0 else bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]

    def _exchanged(self, x: Tensor) -> Tensor:
        """``x [n]`` of every process, on the CPU: ``[processes, n]``."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self.words.allgather([parts], [x]).wait()
        return torch.stack(parts)

    def barrier(self) -> None:
        self.words.barrier().wait()


def join(ranks: Sequence[range], device: torch.device, timeout: float, name: str = "") -> Peers:
    """Divide the processes torchrun has started into runs; this process joins the group of its own.

    ``ranks`` holds each of them once. ``timeout`` (seconds) as in ``context.setup``; ``name``: of this process's run.
    """
    # Not subgroups of one group of all: then every collective, mesh and checkpoint of a run would have to name its own.
    store, number, _ = next(iter(dist.rendezvous("env://")))
    own = next(i for i, members in enumerate(ranks) if number in members)
    part = dist.PrefixStore(f"run-{own}", store)
    context.setup_part(ranks[own], number - ranks[own].start, part, device, timeout)
    size, wait = sum(len(members) for members in ranks), datetime.timedelta(seconds=timeout)
    words = dist.ProcessGroupGloo(dist.PrefixStore("siblings", store), number, size, wait)
    tensors: Any = words
    if context.backend_of(device) == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = wait
        tensors = dist.ProcessGroupNCCL(dist.PrefixStore("siblings-nccl", store), number, size, options)
    return Together(ranks, number, words, tensors, name)
