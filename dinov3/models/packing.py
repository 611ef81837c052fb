"""Crops of several sizes as one token matrix, and the choice of samples that drop path keeps.

Every Linear, norm and FFN runs once over the packed matrix; only attention looks at the entries one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Sizes = tuple[tuple[int, int], ...]  # (N, T) of each entry: crops, tokens a crop


def pack(entries: Sequence[Tensor]) -> Tensor:
    """Entries [N_i, T_i, D] below one another: [sum of N_i*T_i, D]."""
    if len(entries) == 1:
        return entries[0].flatten(0, 1)
    return torch.cat([entry.flatten(0, 1) for entry in entries])


def unpack(x: Tensor, sizes: Sizes) -> list[Tensor]:
    """Views [N_i, T_i, D] of the packed matrix."""
    parts = x.split([n * t for n, t in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes, strict=True)]


class Kept:
    """The samples one residual branch sees: a random subset of each entry, and its rows in the packed matrix.

    Stochastic depth (Huang et al. 2016) as DINOv2 and DINOv3 do it: exactly max(int(N * (1 - rate)), 1) samples of an
    entry pass through the branch, whose result is scaled by N / kept, so that the dropped samples cost nothing.
    """

    def __init__(self, sizes: Sizes, rate: float, device: torch.device) -> None:
        counts = [min(max(int(n * (1 - rate)), 1), n) for n, _ in sizes]  # an entry may be empty
        self.sizes: Sizes = tuple((kept, t) for kept, (_, t) in zip(counts, sizes, strict=True))
        self.scales = [n / max(kept, 1) for kept, (n, _) in zip(counts, sizes, strict=True)]
        rows, start = [], 0
        for kept, (n, t) in zip(counts, sizes, strict=True):
            chosen = torch.randperm(n, device=device)[:kept]
            rows.append((start + chosen[:, None] * t + torch.arange(t, device=device)).flatten())
            start += n * t
        self.rows = torch.cat(rows)  # [sum of kept_i*T_i] int64, each at most once

    def take(self, x: Tensor) -> Tensor:
        """The kept rows of the packed matrix."""
        return _TakeRows.apply(x, self.rows)

    def add(self, x: Tensor, y: Tensor, gamma: Tensor | None) -> Tensor:
        """``x`` with ``y * gamma * N / kept`` added to the kept rows."""
        factors = [scale if gamma is None else gamma * scale for scale in self.scales]
        parts = y.split([n * t for n, t in self.sizes])
        scaled = torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])
        return _AddRows.apply(x, scaled, self.rows)


# The rows are unique, which autograd cannot know: its own backward would add atomically and could not be fused.
class _TakeRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.n_rows = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.n_rows, *grad.shape[1:]).index_copy(0, rows, grad), None


class _AddRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.index_copy(0, rows, x.index_select(0, rows) + y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad, grad.index_select(0, rows), None
