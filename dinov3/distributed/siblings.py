"""Runs that were started together and share work: what their processes say to one another beside their own group.

A run by itself has no siblings: every question is answered at once, by itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.distributed import context


@dataclass(frozen=True)
class Siblings:
    """All processes of all runs, in the order they were started in."""

    ranks: tuple[range, ...]  # the processes of each run
    number: int  # of this process
    words: Any  # torch's ProcessGroupGloo, whose methods its stubs leave out: for numbers and texts
    tensors: Any  # the same, or ProcessGroupNCCL: for tensors of the device

    @property
    def size(self) -> int:
        """How many processes there are."""
        return sum(len(ranks) for ranks in self.ranks)


_siblings: Siblings | None = None


def join(ranks: Sequence[range], device: torch.device, timeout: float) -> None:
    """Divide the processes torchrun has started into runs; this process joins the group of its own.

    ``ranks`` holds each of them once. ``timeout`` (seconds) as in ``context.setup``.
    """
    global _siblings
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
    _siblings = Siblings(tuple(ranks), number, words, tensors)


def leave() -> None:
    """Forget the other runs."""
    global _siblings
    _siblings = None


def current() -> Siblings | None:
    """The runs started together, this one among them; None when it is by itself."""
    return _siblings


def number() -> int:
    """This process's number among those of all runs."""
    return context.rank() if _siblings is None else _siblings.number


def is_first() -> bool:
    """True in the one process of all runs that speaks for them: progress, requeueing."""
    return context.is_main() and (_siblings is None or _siblings.number == 0)


def gather(x: Tensor) -> Tensor:
    """``x [...]`` of every process of all runs, ``[processes, ...]``; the same shape everywhere, no gradient."""
    if _siblings is None:
        return x[None]
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(_siblings.size)]
    _siblings.tensors.allgather([parts], [x.detach().contiguous()]).wait()
    return torch.stack(parts)


def numbers(value: float) -> list[float]:
    """Every process's ``value`` on every process of all runs, in their order."""
    if _siblings is None:
        return [value]
    return _exchanged(torch.tensor([value], dtype=torch.float64)).flatten().tolist()


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is True in any process of all runs."""
    return any(numbers(flag))


def texts(value: str | None) -> list[str | None]:
    """Every process's ``value`` on every process of all runs, in their order."""
    if _siblings is None:
        return [value]
    data = torch.tensor(list((value or "").encode()), dtype=torch.uint8)
    sizes = [int(size) for size in numbers(-1 if value is None else len(data))]
    padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
    padded[: len(data)] = data
    rows = _exchanged(padded).tolist()
    return [None if size < 0 else bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def _exchanged(x: Tensor) -> Tensor:
    """``x [n]`` of every process, on the CPU: ``[processes, n]``."""
    assert _siblings is not None
    parts = [torch.empty_like(x) for _ in range(_siblings.size)]
    _siblings.words.allgather([parts], [x]).wait()
    return torch.stack(parts)


def barrier() -> None:
    """Wait for every process of all runs."""
    if _siblings is None:
        context.barrier()
    else:
        _siblings.words.barrier().wait()
