"""Rectified flow (Liu et al. 2022): the straight line from an image (t = 0) to noise (t = 1), and what is learned on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

EARLIEST, LATEST = 0.001, 0.999  # at the very ends the target is all noise, or the input is


def times_of(normal: Tensor, *, earliest: float = EARLIEST, latest: float = LATEST) -> Tensor:
    """Training times of standard normal draws: their logistic function (Esser et al. 2024), kept off the ends."""
    return normal.sigmoid().clamp(earliest, latest)


def noised(images: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """``(1 - t) images + t noise`` in the format of ``images [N, ...]``; ``t [N]``."""
    t = t.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))
    return (1 - t) * images + t * noise


def velocity_of(images: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to say: the direction of the line, from image to noise."""
    return noise - images


def flow_losses(predicted: Tensor, images: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each sample, ``[N]``; the loss is their mean."""
    return F.mse_loss(predicted, velocity_of(images, noise), reduction="none").flatten(1).mean(1)


def shift_of(shape: Sequence[int], base: float | None) -> float:
    """How far times are shifted for latents ``[C, H, W]``: ``sqrt(numbers / base)``, 1 for no base.

    Neighbours in a large latent say the same, so it takes more noise to hide as much (Esser et al. 2024); Zheng et al. 2025
    (RAE) count channels too, with the 4096 numbers of a latent of 32 x 32 x 4 as base.
    """
    return 1.0 if base is None else math.sqrt(math.prod(shape) / base)


def shifted(t: Tensor, shift: float) -> Tensor:
    """``shift t / (1 + (shift - 1) t)``: 0 and 1 stay, what lies between moves towards noise for a ``shift`` above 1."""
    return t if shift == 1 else shift * t / (1 + (shift - 1) * t)
