"""Stain normalisation: the colours of tissue moved to given statistics (Reinhard et al. 2001, "Color transfer between images").

In the space lαβ, made of logarithms of cone responses, each channel of the tissue is shifted and scaled to a target mean and
standard deviation. What is almost white is glass, not tissue: it is neither counted nor changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Matrix = tuple[tuple[float, ...], ...]

TO_CONES: Matrix = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))  # RGB to LMS
TO_OPPONENT: Matrix = tuple(
    tuple(float(sign / norm) for sign in signs)
    for signs, norm in zip(((1, 1, 1), (1, 1, -2), (1, -1, 0)), np.sqrt((3, 6, 2)), strict=True)
)  # log LMS to lαβ
FROM_CONES: Matrix = tuple(map(tuple, np.linalg.inv(np.array(TO_CONES)).tolist()))
FROM_OPPONENT: Matrix = tuple(map(tuple, np.linalg.inv(np.array(TO_OPPONENT)).tolist()))

GLASS = 220 / 255  # all three channels at least so bright: no tissue there
LEAST_TISSUE = 0.01  # of the crop: its colours say too little below, and nothing is changed
MOST_STRETCH = 4.0  # of a channel's standard deviation: tissue of one colour has noise there, not a stain
STEPS = 4096  # levels of lαβ a unit: sums of whole numbers are exact in any order


def normalize_stain(x: Tensor, target: Tensor) -> None:
    """Give the tissue of ``x [N, 3, h, w]`` (RGB in [0, 1], changed in place) the statistics ``target``.

    ``target [N, >= 6]``: means of l, α, β, then standard deviations, of natural logarithms of values from 0 to 255.
    """
    mean, std = target[:, :3, None, None], target[:, 3:6, None, None]  # [N, 3, 1, 1]
    tissue = x.amin(1, keepdim=True) < GLASS  # [N, 1, h, w]
    opponent = mixed(mixed(x * 255, TO_CONES).clamp_(min=1).log_(), TO_OPPONENT)  # [N, 3, h, w]
    own_mean, own_std, count = statistics(opponent, tissue)
    stretch = (std / own_std.clamp(min=1e-6)).clamp_(max=MOST_STRETCH)
    opponent.sub_(own_mean).mul_(stretch).add_(mean)
    moved = mixed(mixed(opponent, FROM_OPPONENT).exp_(), FROM_CONES).div_(255).clamp_(0, 1)
    enough = count >= LEAST_TISSUE * x.shape[2] * x.shape[3]  # [N, 1, 1, 1]
    x.copy_(torch.where(tissue & enough, moved, x))


def statistics(opponent: Tensor, tissue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation ``[N, 3, 1, 1]`` of ``opponent [N, 3, h, w]`` where ``tissue [N, 1, h, w]``; its pixels ``[N, 1, 1, 1]``.

    The same whatever the other crops of the stack are.
    """
    levels = (opponent * STEPS).round_().mul_(tissue).double()  # [N, 3, h, w] whole numbers
    count = tissue.sum((2, 3), keepdim=True, dtype=torch.float64)
    pixels = count.clamp(min=1)
    mean = levels.sum((2, 3), keepdim=True) / pixels
    variance = (levels**2).sum((2, 3), keepdim=True) / pixels - mean**2
    return (mean / STEPS).float(), (variance.clamp(min=0).sqrt() / STEPS).float(), count


def mixed(x: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """``matrix`` times the three channels of ``x [N, 3, h, w]``; by planes, so that a crop's bits do not depend on its stack."""
    first, second, third = x.split(1, dim=1)
    rows = [first.mul(a).add_(second, alpha=b).add_(third, alpha=c) for a, b, c in matrix]
    return torch.cat(rows, dim=1)
