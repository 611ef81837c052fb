"""The mean over rows that processes hold unequally many of."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.distributed.collectives import all_reduce_sum
from dinov3.distributed.context import world_size


def row_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of ``values [...]`` over the rows of all processes; ``weights [...]`` are 0 or more, None: all 1.

    Processes may hold different numbers of rows, also none. Each returns its own rows' share times the number of
    processes, so that the mean over processes, which is what averaged gradients follow, is the mean over all rows.
    0, with a graph, when there is no row or no weight.
    """
    if weights is None:
        weights = torch.ones_like(values)
    total = all_reduce_sum(weights.sum())
    return world_size() * (values * weights).sum() / torch.where(total > 0, total, 1)
