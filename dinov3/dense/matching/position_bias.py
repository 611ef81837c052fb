"""What patch features say about where a patch is rather than what it shows, estimated on noise and removed.

Images of noise have no content that could depend on the place, so the mean of their features at each patch, less the
mean over all patches, is the position's own part (INSID3, arXiv 2603.28480, finds it in DINOv3). Of n images that mean
still holds 1/n of the features' variance by chance, which is not removed: the part is computed on two halves of the
images, and only directions in which the halves agree more than chance ever makes them are projected out. Chance makes
them disagree as often as agree, so the most negative eigenvalue of their cross-covariance is its measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def noise_images(count: int, channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """``[count, channels, *size]`` of independent normal pixels: what normalised images have on average."""
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def position_part(maps: Tensor) -> Tensor:
    """``[h, w, D]``: mean over images of ``maps [N, D, h, w]`` at each place, less the mean over places."""
    mean = maps.double().mean(0)
    return (mean - mean.mean((1, 2), keepdim=True)).permute(1, 2, 0)


@dataclass(frozen=True)
class PositionBias:
    """Directions of the position's part, and how much of the features' variance it is."""

    directions: Tensor  # [D, r], orthonormal; r may be 0
    share_of_variance: float  # of the features of noise: what both halves agree on; about 0 without a bias


def estimate_position_bias(maps: Tensor, share: float) -> PositionBias:
    """Of features ``maps [N, D, h, w]`` of noise: the fewest directions with ``share`` of what is beyond chance.

    ValueError for fewer than two images, or a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"debias_share={share:g}: above 0, at most 1")
    if len(maps) < 2:
        raise ValueError(f"{len(maps)} images of noise: at least 2")
    one, two = (position_part(maps[half::2]).flatten(0, 1) for half in (0, 1))  # [P, D]
    cross = (one.T @ two + two.T @ one) / (2 * len(one))
    values, vectors = torch.linalg.eigh(cross)  # rising
    beyond = values.clamp_min(0) * (values > -2 * values[0])
    falling = beyond.flip(0)
    reached = falling.cumsum(0) / falling.sum().clamp_min(1e-300)
    count = int((reached < share - 1e-12).sum()) + 1 if float(falling.sum()) > 0 else 0
    centred = maps.double() - maps.double().mean((0, 2, 3), keepdim=True)
    total = float(centred.pow(2).mean((0, 2, 3)).sum())
    return PositionBias(vectors.flip(1)[:, :count], float(values.sum()) / max(total, 1e-30))


def without_position(features: Tensor, directions: Tensor) -> Tensor:
    """``features [..., D]`` less their part along ``directions [D, r]``."""
    wide = features.double()
    return (wide - (wide @ directions) @ directions.T).to(features.dtype)
