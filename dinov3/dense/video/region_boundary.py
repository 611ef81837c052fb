"""How well masks of a video agree, by DAVIS: region (J, the IoU) and boundary (F, precision and recall of outlines)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.008  # of the image's diagonal: how far apart two outlines may be


def region(prediction: Tensor, truth: Tensor) -> float:
    """J of two bool masks ``[H, W]``: intersection over union; 1 when both are empty."""
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0


def outline(mask: Tensor) -> Tensor:
    """Pixels ``[H, W]`` whose right, lower, or lower right neighbour is of the other kind; the image's edge is none."""
    padded = F.pad(mask[None, None].float(), (0, 1, 0, 1), mode="replicate")[0, 0].bool()
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def thickened(mask: Tensor, radius: int) -> Tensor:
    """All pixels at most ``radius`` from one of ``mask [H, W]`` (a disk)."""
    found = mask.clone()
    height = mask.shape[0]
    for down in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        reach = math.isqrt(radius * radius - down * down)
        wide = F.max_pool2d(mask[None, None].float(), (1, 2 * reach + 1), stride=1, padding=(0, reach))[0, 0].bool()
        if down >= 0:
            found[down:] |= wide[: height - down]
        else:
            found[:down] |= wide[-down:]
    return found


def boundary(prediction: Tensor, truth: Tensor, tolerance: float = TOLERANCE) -> float:
    """F of two bool masks ``[H, W]``: harmonic mean of the shares of each outline near the other; 1 when both are empty.

    Near is ``tolerance`` diagonals, rounded up to whole pixels.
    """
    radius = math.ceil(tolerance * math.hypot(*prediction.shape))
    said, true = outline(prediction), outline(truth)
    if not said.any() and not true.any():
        return 1.0
    if not said.any() or not true.any():
        return 0.0
    precision = float((said & thickened(true, radius)).sum() / said.sum())
    found = float((true & thickened(said, radius)).sum() / true.sum())
    return 2 * precision * found / (precision + found) if precision + found else 0.0


def per_object(prediction: Tensor, truth: Tensor, objects: Sequence[int]) -> list[tuple[float, float]]:
    """(J, F) of each object's number in labels ``[H, W]``."""
    return [(region(prediction == n, truth == n), boundary(prediction == n, truth == n)) for n in objects]
