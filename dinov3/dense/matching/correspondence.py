"""Which patch of one image shows what a point of another one shows: matching, PCK, recall, known homographies.

A pixel i covers [i, i + 1); the patch of row i and column j has its centre at ((j + 0.5) p, (i + 0.5) p). Points are
(x, y) in pixels. A patch matcher answers with patch centres, so even a perfect one is off by up to p / sqrt(2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def centres(grid: tuple[int, int], patch: float, device: torch.device | None = None) -> Tensor:
    """``[rows * cols, 2]`` float64 (x, y) of all patch centres, row by row."""
    y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    return (torch.stack([x.flatten(), y.flatten()], dim=1).double() + 0.5) * patch


def descriptors(features: Tensor, points: Tensor, patch: float, how: str = "nearest") -> Tensor:
    """``[N, D]`` float64 at ``points [N, 2]`` of ``features [h, w, D]``.

    ``nearest``: of the patch that holds the point; ``bilinear``: blended from the patch centres around it, the border
    repeated. A point outside the image gets the nearest patch.
    """
    rows, columns = features.shape[:2]
    wide = features.double()
    if how == "nearest":
        column = (points[:, 0] / patch).floor().long().clamp(0, columns - 1)
        row = (points[:, 1] / patch).floor().long().clamp(0, rows - 1)
        return wide[row, column]
    if how != "bilinear":
        raise ValueError(f"descriptors {how!r}: choose nearest or bilinear")
    u = (points[:, 0].double() / patch - 0.5).clamp(0, columns - 1)
    v = (points[:, 1].double() / patch - 0.5).clamp(0, rows - 1)
    left, top = u.floor().long().clamp(max=max(columns - 2, 0)), v.floor().long().clamp(max=max(rows - 2, 0))
    right, bottom = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=rows - 1)
    a, b = (u - left)[:, None], (v - top)[:, None]
    above = wide[top, left] * (1 - a) + wide[top, right] * a
    below = wide[bottom, left] * (1 - a) + wide[bottom, right] * a
    return above * (1 - b) + below * b


def best_match(queries: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(flat patch ``[N]``, cosine ``[N]``) of the target patch ``[h, w, D]`` most similar to each query ``[N, D]``.

    Ties go to the lowest number: argmax alone does not promise that.
    """
    similarity = F.normalize(queries.double(), dim=1) @ F.normalize(target.double().flatten(0, 1), dim=1).T
    best = similarity.amax(1, keepdim=True)
    number = torch.arange(similarity.shape[1], device=similarity.device)
    found = torch.where(similarity == best, number, similarity.shape[1]).amin(1)
    return found, best[:, 0]


@dataclass(frozen=True)
class Transfer:
    """Keypoints of a source image found in a target image."""

    match: Tensor  # [N] flat target patch
    predicted: Tensor  # [N, 2] its centre
    error: Tensor  # [N] px to the true place


def transfer(
    source: Tensor, target: Tensor, source_xy: Tensor, target_xy: Tensor, patch: float, how: str = "nearest"
) -> Transfer:
    """Where the points ``source_xy [N, 2]`` are seen in the target, and how far that is from ``target_xy``."""
    match, _ = best_match(descriptors(source, source_xy, patch, how), target)
    predicted = centres((target.shape[0], target.shape[1]), patch, match.device)[match]
    return Transfer(match, predicted, (predicted - target_xy.double()).norm(dim=1))


def image_length(height: float, width: float) -> float:
    """What PCK@image measures errors by: the longer side of the target image."""
    return float(max(height, width))


def box_of(points: Tensor) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) around points ``[N, 2]``."""
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    return left, top, right, bottom


def box_length(points: Tensor) -> float:
    """What PCK@bbox measures errors by: the longer side of the box around the visible keypoints of the target."""
    left, top, right, bottom = box_of(points)
    return max(right - left, bottom - top)


def pck(error: Tensor, length: float, alpha: float) -> float:
    """Share of ``error [N]`` that is at most ``alpha * length``; NaN of no points."""
    return float((error <= alpha * length).double().mean())


def pooled_pck(errors: Sequence[Tensor], lengths: Sequence[float], alpha: float) -> dict[str, float]:
    """``per_point``: of the points of all pairs together; ``per_pair``: the mean of the pairs' PCK."""
    right = [error <= alpha * length for error, length in zip(errors, lengths, strict=True)]
    each = torch.tensor([float(hits.double().mean()) for hits in right], dtype=torch.float64)
    return {"per_point": float(torch.cat(right).double().mean()), "per_pair": float(each.nanmean())}


def recall(error: Tensor, radius: float) -> float:
    """Share of ``error [N]`` that is at most ``radius`` px; NaN of no points."""
    return float((error <= radius).double().mean())


@dataclass(frozen=True)
class HomographyMatch:
    """Every source patch matched into the target, where it truly lies being known."""

    match: Tensor  # [P] flat target patch
    similarity: Tensor  # [P]
    error: Tensor  # [P] px from the centre of the match to the true place
    inside: Tensor  # [P] whether the true place lies in the target
    mutual: Tensor  # [P] whether the match matches back


def mapped(points: Tensor, homography: Tensor) -> Tensor:
    """Points ``[N, 2]`` through ``homography [3, 3]``, which takes (x, y, 1) of the source to the target."""
    full = torch.cat([points.double(), torch.ones(len(points), 1, dtype=torch.float64, device=points.device)], dim=1)
    moved = full @ homography.double().T
    return moved[:, :2] / moved[:, 2:]


def match_homography(source: Tensor, target: Tensor, homography: Tensor, patch: float) -> HomographyMatch:
    """Match all patches of ``source [h, w, D]`` into ``target [H, W, D]``; a point in front of neither is outside."""
    truth = mapped(centres((source.shape[0], source.shape[1]), patch, source.device), homography)
    height, width = target.shape[0] * patch, target.shape[1] * patch
    inside = (truth[:, 0] >= 0) & (truth[:, 0] < width) & (truth[:, 1] >= 0) & (truth[:, 1] < height)
    match, similarity = best_match(source.flatten(0, 1), target)
    back, _ = best_match(target.flatten(0, 1), source)
    mutual = back[match] == torch.arange(len(match), device=match.device)
    error = (centres((target.shape[0], target.shape[1]), patch, match.device)[match] - truth).norm(dim=1)
    return HomographyMatch(match, similarity, error, inside, mutual)
