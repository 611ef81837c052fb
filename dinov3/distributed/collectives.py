"""Sums and gathers over processes that cost nothing when there is only one."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.distributed.context import is_initialized, world_size

Group = dist.ProcessGroup | None
T = TypeVar("T")


def all_reduce_sum(x: Tensor, group: Group = None) -> Tensor:
    """Sum of ``x`` over processes, as a new tensor when there are several; no gradient."""
    if not is_initialized():
        return x
    total = x.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def all_reduce_min(x: Tensor) -> Tensor:
    """Elementwise minimum of ``x`` over processes; no gradient."""
    if not is_initialized():
        return x
    lowest = x.detach().clone()
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return lowest


def all_reduce_max(x: Tensor) -> Tensor:
    """Elementwise maximum of ``x`` over processes; no gradient."""
    if not is_initialized():
        return x
    highest = x.detach().clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean of ``x`` over processes; no gradient."""
    return all_reduce_sum(x) / world_size()


def gather_rows(x: Tensor, group: Group = None) -> Tensor:
    """Rows of all processes of ``group`` ``[sum of N, ...]``, in rank order, with gradients to every process's rows.

    Every process must hold the same number of rows.
    """
    if not is_initialized():
        return x
    rows: Tensor = _GatherRows.apply(x, group)
    return rows


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward sums each process's gradient of the whole and keeps the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.n_rows = group, x.shape[0]
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = all_reduce_sum(grad.contiguous(), ctx.group)
        start = dist.get_rank(ctx.group) * ctx.n_rows
        return total[start : start + ctx.n_rows], None


def broadcast_object(value: T, group: Group = None) -> T:
    """Rank 0's ``value`` on every process of ``group`` (None: all), which must hold rank 0."""
    if not is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def gather_objects(value: T, group: Group = None) -> list[T]:
    """Every process's ``value`` (small; it is pickled) on every process, by rank; ``group`` holds all of them too."""
    if not is_initialized():
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value, group=group)
    return values
