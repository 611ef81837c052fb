"""Crops of several sizes as one token matrix, and the choice of samples that drop path keeps.

Norms and FFN run once over the packed matrix; attention, with its two matrices, looks at the entries one by one.
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

    def __init__(self, sizes: Sizes, rate: float, device: torch.device, rows: Tensor | None = None) -> None:
        """``rows``: those of a draw made elsewhere (``draw_at_once``); None: drawn here."""
        counts = _counts(sizes, rate)
        self.sizes: Sizes = tuple((kept, t) for kept, (_, t) in zip(counts, sizes, strict=True))
        self.scales = [n / max(kept, 1) for kept, (n, _) in zip(counts, sizes, strict=True)]
        if rows is None:
            rows = _rows([torch.randperm(n, device=device)[None] for n, _ in sizes], sizes, counts)[0]
        self.rows = rows  # [sum of kept_i*T_i] int64, each at most once

    def factors(self, n_rows: int) -> Tensor:
        """What a branch's result is multiplied by in each of the ``n_rows`` rows ``[S]``: N / kept, or 0 where it is dropped."""
        lengths = [n * t for n, t in self.sizes]
        rows = self.rows.new_empty(n_rows, dtype=torch.float32).zero_()
        for part, scale in zip(self.rows.split(lengths), self.scales, strict=True):
            rows.index_fill_(0, part, scale)
        return rows

    def places(self, n_rows: int) -> Tensor:
        """Where each of the ``n_rows`` rows is among the kept ones ``[S]``; 0 for dropped ones."""
        places = self.rows.new_zeros(n_rows)
        return places.index_copy_(0, self.rows, torch.arange(len(self.rows), device=self.rows.device))

    def take(self, x: Tensor) -> Tensor:
        """The kept rows of the packed matrix."""
        return _TakeRows.apply(x, self.rows)

    def add(self, x: Tensor, y: Tensor, gamma: Tensor | None) -> Tensor:
        """``x`` with ``y * gamma * N / kept`` added to the kept rows."""
        factors = [scale if gamma is None else gamma * scale for scale in self.scales]
        parts = y.split([n * t for n, t in self.sizes])
        scaled = torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])
        return _AddRows.apply(x, scaled, self.rows)


def draw_at_once(number: int, sizes: Sizes, rate: float, device: torch.device) -> list[Kept]:
    """``number`` independent choices with three operations an entry: 48 ``randperm`` cost 1 to 2 ms of a ViT-L step."""
    keys = torch.rand(number, sum(n for n, _ in sizes), device=device).split([n for n, _ in sizes], dim=1)
    rows = _rows([key.argsort(dim=1) for key in keys], sizes, _counts(sizes, rate))
    return [Kept(sizes, rate, device, chosen) for chosen in rows.unbind()]


def _counts(sizes: Sizes, rate: float) -> list[int]:
    return [min(max(int(n * (1 - rate)), 1), n) for n, _ in sizes]  # an entry may be empty


def _rows(orders: Sequence[Tensor], sizes: Sizes, counts: Sequence[int]) -> Tensor:
    """Rows of the first ``counts`` samples of ``orders`` ``[draws, N]`` each: ``[draws, sum of kept_i*T_i]``."""
    rows, start = [], 0
    for order, kept, (n, t) in zip(orders, counts, sizes, strict=True):
        tokens = torch.arange(t, device=order.device)
        rows.append((start + order[:, :kept, None] * t + tokens).flatten(1))
        start += n * t
    return torch.cat(rows, dim=1)


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
