"""Runs that were started together and share work: what their processes say to one another beside their own group.

A run by itself has no siblings: every question is answered at once, by itself.
"""

from __future__ import annotations

import datetime
import json
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


def tell(value: Any) -> list[Any]:
    """Every process's ``value`` (JSON) on every process of all runs, in their order."""
    if _siblings is None:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(_siblings.size)]
    _siblings.words.allgather([sizes], [torch.tensor([len(data)])]).wait()
    longest = int(torch.cat(sizes).max())
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(data)] = data
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(_siblings.size)]
    _siblings.words.allgather([texts], [padded]).wait()
    return [json.loads(bytes(text[: int(size)].tolist()).decode()) for text, size in zip(texts, sizes, strict=True)]


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is True in any process of all runs."""
    return flag if _siblings is None else any(tell(flag))


def barrier() -> None:
    """Wait for every process of all runs."""
    if _siblings is None:
        context.barrier()
    else:
        _siblings.words.barrier().wait()
