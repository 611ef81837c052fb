"""Patch tokens of one grid, seen on another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # (rows, cols) of patches


def resample_tokens(tokens: Tensor, from_grid: Grid, to_grid: Grid) -> Tensor:
    """``tokens`` [N, P, D] of a (rows, cols) grid, sampled bilinearly at the patch centres of another: [N, P', D].

    Both grids cover the same image. ValueError when P is not rows * cols or a side is not positive.
    """
    if tokens.ndim != 3 or tokens.shape[1] != from_grid[0] * from_grid[1]:
        raise ValueError(f"tokens {list(tokens.shape)} are not [N, {from_grid[0]} * {from_grid[1]}, D]")
    if min(*from_grid, *to_grid) < 1:
        raise ValueError(f"grids must be positive, got {from_grid} and {to_grid}")
    if from_grid == to_grid:
        return tokens
    field = tokens.float().mT.unflatten(-1, from_grid)  # [N, D, rows, cols]
    moved = F.interpolate(field, size=to_grid, mode="bilinear", align_corners=False)  # [N, D, rows', cols']
    return moved.flatten(2).mT.to(tokens.dtype)
