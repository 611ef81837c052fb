"""What a backbone says about images of one size."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Pool = Literal["cls", "mean", "cls+mean", "patches"]
POOLS: tuple[Pool, ...] = ("cls", "mean", "cls+mean", "patches")


class Tokens(NamedTuple):
    """Tokens of N images of one size, normed unless asked for otherwise, float32 on the CPU."""

    cls: Tensor  # [N, D]
    storage: Tensor  # [N, R, D]
    patches: Tensor  # [N, P, D], row by row
    grid: tuple[int, int]  # (rows, cols), rows * cols == P

    def maps(self) -> Tensor:
        """The patches as feature maps ``[N, D, rows, cols]``."""
        return self.patches.mT.unflatten(2, self.grid)

    def pooled(self, pool: Pool) -> Tensor:
        """One vector an image: the class token ``[N, D]``, the mean of the patches ``[N, D]``, or both ``[N, 2D]``."""
        if pool == "cls":
            return self.cls
        mean = self.patches.mean(1)
        return mean if pool == "mean" else torch.cat([self.cls, mean], dim=1)
