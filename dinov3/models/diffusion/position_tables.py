"""Places and times as numbers: one table for latents and patch features, so that equal places look equal."""

from __future__ import annotations

import torch
from torch import Tensor

# One unit of angle per cell on a side of 64 cells. With 1 the table is almost constant: neighbours on 64 x 64 cells
# have a cosine of 0.99996.
SCALE = 32.0
BASE = 10000.0
TIME_SCALE = 1000.0  # t in [0, 1] is told to the model as 0 to 1000


def position_table(rows: int, cols: int, dim: int, *, scale: float = SCALE, base: float = BASE) -> Tensor:
    """``[rows * cols, dim]`` float32, row by row: ``[sin y | cos y | sin x | cos x]`` of the cells' centres.

    Centres lie in (-1, 1) whatever the grid, ``c = 2 (i + 0.5) / rows - 1``; angle ``k`` of ``dim / 4`` is
    ``scale * c * base ** (-k / (dim / 4))``. ValueError unless 4 divides ``dim``.
    """
    if dim % 4 or dim < 4 or min(rows, cols) < 1:
        raise ValueError(f"a position table of {rows} x {cols} cells and width {dim}: 4 must divide the width")
    quarter = dim // 4
    frequencies = scale * base ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    y, x = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in (rows, cols))
    angles_y = (y[:, None] * frequencies)[:, None].expand(rows, cols, quarter)
    angles_x = (x[:, None] * frequencies)[None].expand(rows, cols, quarter)
    table = torch.cat([angles_y.sin(), angles_y.cos(), angles_x.sin(), angles_x.cos()], dim=-1)
    return table.reshape(rows * cols, dim).float()


def time_table(t: Tensor, dim: int, *, scale: float = TIME_SCALE, base: float = BASE) -> Tensor:
    """``[N, dim]`` float32 of times ``t [N]``: ``[sin | cos]`` of ``scale * t * base ** (-k / (dim / 2))``.

    DiT's own code has the cosines first. ValueError for an odd ``dim``.
    """
    if dim % 2 or dim < 2:
        raise ValueError(f"a time table of width {dim}: give an even width")
    half = dim // 2
    frequencies = scale * base ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = t.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
