"""Data parallelism with a whole copy of the model on every process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.distributed.context import is_initialized, world_size

BUCKET = 1 << 23  # elements of one all-reduce: 32 MB in fp32, a twentieth of a ViT-L's
IN_FLIGHT = 2  # sums under way at once; each holds a copy of its bucket


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Replace each gradient by its mean over processes, summed in ``dtype``. Every process must have the same gradients set."""
    if not is_initialized():
        return
    for bucket in buckets(parameters):
        if (summing := _begin([p.grad for p in bucket if p.grad is not None], dtype)) is not None:
            summing.end()


def buckets(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """``parameters`` in their order, in pieces of ``BUCKET`` elements or one parameter more."""
    pieces: list[list[Tensor]] = []
    filled = BUCKET  # elements of the last piece
    for parameter in parameters:
        if filled >= BUCKET:
            pieces.append([])
            filled = 0
        pieces[-1].append(parameter)
        filled += parameter.numel()
    return pieces


@dataclass
class _Summing:
    """One all-reduce under way."""

    gradients: list[Tensor]
    flat: Tensor
    work: dist.Work

    def end(self) -> None:
        """The mean into the gradients."""
        self.work.wait()
        parts = self.flat.split([g.numel() for g in self.gradients])
        torch._foreach_copy_(self.gradients, [p.view_as(g) for p, g in zip(parts, self.gradients, strict=True)])


def _begin(gradients: list[Tensor], dtype: torch.dtype) -> _Summing | None:
    """The sum of these over processes; None without any."""
    if not gradients:
        return None
    flat = torch.cat([g.flatten().to(dtype) for g in gradients])
    flat /= world_size()  # before the sum, which could overflow in fp16
    work = dist.all_reduce(flat, async_op=True)
    assert work is not None
    return _Summing(gradients, flat, work)


@dataclass
class EarlySums:
    """``average_gradients`` that begins while the backward pass is still at work on earlier layers.

    A bucket is summed when the last of its gradients has arrived, buckets always in the same order: last layers first,
    the order of a backward pass (Li et al. 2020, "PyTorch Distributed"). A gradient that never arrives (a head warm-up
    has none for the backbone) holds its bucket and those behind it until ``finish``. Until ``last_backward`` is called
    gradients only accumulate.
    """

    parameters: list[Tensor]
    dtype: torch.dtype
    _buckets: list[list[Tensor]] = field(init=False)
    _of: dict[Tensor, int] = field(init=False)  # the bucket of a parameter; tensors are told apart by identity
    _missing: list[int] = field(init=False)  # gradients of each bucket that have not arrived
    _next: int = 0  # the bucket whose turn it is
    _armed: bool = False
    _under_way: list[_Summing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._buckets = buckets(reversed(self.parameters))
        self._of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._missing = [len(bucket) for bucket in self._buckets]
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def last_backward(self) -> None:
        """The next backward pass is the last of the step."""
        self._armed = True

    @torch.no_grad()
    def _arrived(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        self._missing[self._of[parameter]] -= 1
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._sum_next()

    def _sum_next(self) -> None:
        while len(self._under_way) >= IN_FLIGHT:
            self._under_way.pop(0).end()
        summing = _begin([p.grad for p in self._buckets[self._next] if p.grad is not None], self.dtype)
        self._under_way += [] if summing is None else [summing]
        self._next += 1

    @torch.no_grad()
    def finish(self) -> None:
        """Sum what is left; every gradient is its mean over processes then. Every process must have the same gradients set."""
        while self._next < len(self._buckets):
            self._sum_next()
        for summing in self._under_way:
            summing.end()
        self._under_way.clear()
        self._missing = [len(bucket) for bucket in self._buckets]
        self._next, self._armed = 0, False
