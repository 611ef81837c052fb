"""Rectified flow (Liu et al. 2022): the straight line from an image (t = 0) to noise (t = 1), and what is learned on it."""

from __future__ import annotations

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
