"""Rectified flow (Liu et al. 2022): the straight line from an image (t = 0) to noise (t = 1), and what is learned on it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TIME_SCALE = 1000.0  # t in [0, 1] is told to the model as 0 to 1000
BASE = 10000.0
EARLIEST, LATEST = 0.001, 0.999  # at the very ends the target is all noise, or the input is


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
