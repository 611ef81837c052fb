"""Depth against the truth: which pixels count, least squares alignment, and the scores of one image and of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dinov3.dense.windows import resized

METRICS = ("a1", "a2", "a3", "abs_rel", "rmse", "log_10", "rmse_log", "silog", "sq_rel", "mae")
EIGEN = (45 / 480, 471 / 480, 41 / 640, 601 / 640)  # top, bottom, left, right as shares: Eigen et al. 2014 on NYU


def eigen_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) in pixels of the part of an NYU image that is scored, half open."""
    top, bottom, left, right = EIGEN
    return int(top * height), int(bottom * height), int(left * width), int(right * width)


def valid_pixels(truth: Tensor, low: float, high: float, *, eigen: bool = False) -> Tensor:
    """Where ``truth [..., H, W]`` counts: between ``low`` and ``high``, both excluded, and inside the Eigen crop."""
    valid = (truth > low) & (truth < high)
    if eigen:
        top, bottom, left, right = eigen_crop(truth.shape[-2], truth.shape[-1])
        inside = torch.zeros_like(valid)
        inside[..., top:bottom, left:right] = True
        valid &= inside
    return valid


def scale_and_shift(prediction: Tensor, truth: Tensor, valid: Tensor) -> tuple[float, float]:
    """(s, t) of the smallest sum of (s * prediction + t - truth)^2 over valid pixels.

    Where several do, the shortest (s, t): (0, 0) without a valid pixel. As numpy's lstsq, which DINOv3's code calls.
    """
    p, g = prediction[valid].double().cpu().numpy(), truth[valid].double().cpu().numpy()
    found = np.linalg.lstsq(np.stack([p, np.ones_like(p)], axis=1), g, rcond=None)[0]
    return float(found[0]), float(found[1])


def depth_scores(prediction: Tensor, truth: Tensor, valid: Tensor, *, empty_silog: float = math.nan) -> Tensor:
    """``METRICS`` of one image as ``[10]`` float64. Pixels with a truth of 0 or less never count.

    a1, a2, a3 are the shares of pixels within a factor of 1.25, 1.25^2 and 1.25^3; silog is 100 times the standard
    deviation of ln(truth) - ln(prediction). An image without a valid pixel is NaN in every score.

    Args:
        empty_silog: the silog of such an image. DINOv3's code has 0 there, which lowers its mean.
    """
    valid = valid & (truth > 0)
    p, g = prediction[valid].double(), truth[valid].double()
    if not len(p):
        found = torch.full((len(METRICS),), math.nan, dtype=torch.float64, device=p.device)
        found[METRICS.index("silog")] = empty_silog
        return found
    ratio, error, log_error = torch.maximum(g / p, p / g), g - p, g.log() - p.log()
    values = {
        "a1": (ratio < 1.25).double().mean(),
        "a2": (ratio < 1.25**2).double().mean(),
        "a3": (ratio < 1.25**3).double().mean(),
        "abs_rel": (error.abs() / g).mean(),
        "rmse": (error**2).mean().sqrt(),
        "log_10": (g.log10() - p.log10()).abs().mean(),
        "rmse_log": (log_error**2).mean().sqrt(),
        "silog": 100 * ((log_error**2).mean() - log_error.mean() ** 2).clamp_min(0).sqrt(),
        "sq_rel": (error**2 / g).mean(),
        "mae": error.abs().mean(),
    }
    return torch.stack([values[name] for name in METRICS])


def mean_scores(per_image: Tensor) -> Tensor:
    """Mean over images of ``[images, 10]``; an image without a score is left out of that mean."""
    return per_image.nanmean(0)


def flip_average(prediction: Tensor, of_mirrored: Tensor) -> Tensor:
    """Mean of the prediction ``[..., H, W]`` and that of the mirrored image, mirrored back."""
    return (prediction + of_mirrored.flip(-1)) / 2


def evaluate_depth(
    prediction: Tensor,
    truth: Tensor,
    *,
    low: float,
    high: float,
    eigen: bool = False,
    align: bool = False,
    empty_silog: float = math.nan,
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """(scores ``[10]``, valid pixels ``[H, W]``, (scale, shift)) of one image, by DINOv3's order of steps.

    The prediction ``[h, w]`` is resized to the truth ``[H, W]``, with ``align`` fitted to it on valid pixels, and
    clamped to [low, high].
    """
    valid = valid_pixels(truth, low, high, eigen=eigen)
    size = (truth.shape[-2], truth.shape[-1])
    fitted = resized(prediction[None, None].float(), size)[0, 0]
    scale, shift = scale_and_shift(fitted, truth, valid) if align else (1.0, 0.0)
    if align:
        fitted = scale * fitted + shift
    return depth_scores(fitted.clamp(low, high), truth, valid, empty_silog=empty_silog), valid, (scale, shift)


def table_of(per_image: Sequence[Tensor]) -> dict[str, float]:
    """``mean_scores`` by name."""
    return dict(zip(METRICS, mean_scores(torch.stack(list(per_image))).tolist(), strict=True))
