"""Pictures of a run: principal components of patch features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.pictures.dated import save_png

INK, MUTED = "#1f2933", "#7b8794"


@torch.inference_mode()
def pca_colours(backbone: nn.Module, images: Tensor) -> Tensor:
    """``token_colours`` of what ``backbone`` makes of ``images [N, C, H, W]``: ``[N, 3, rows, cols]``."""
    out = backbone(images, is_training=True)
    return token_colours(out.patches, out.grid)


def token_colours(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The first three principal components of patch tokens ``[N, P, D]`` as RGB in [0, 1]: ``[N, 3, rows, cols]``.

    One projection for the whole batch, so a colour means the same thing in every image; each component is scaled to
    its 2nd to 98th percentile.
    """
    flat = patches.float().flatten(0, 1)  # [N*P, D]
    centred = flat - flat.mean(0)
    if min(flat.shape) < 3:
        raise ValueError(f"{len(flat)} patches of {flat.shape[1]} features: three colours need at least three of each")
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ directions[:3].T  # [N*P, 3]
    # a singular vector's sign is arbitrary: make the larger tail positive, so that pictures of two steps compare
    scores = scores * torch.sign((scores**3).sum(0))
    low, high = scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0)
    colours = ((scores - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)
    return colours.reshape(len(patches), *grid, 3).permute(0, 3, 1, 2)


def pca_sheet(
    backbone: nn.Module,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    path: Path,
    step: int | None = None,
) -> None:
    """Write a PNG: one row of images, below it their patch features as colours. ``step``: of the backbone's training."""
    colours = pca_colours(backbone, images).cpu()
    size = max(128, images.shape[-1])
    shown = images.cpu() * torch.tensor(std).reshape(1, -1, 1, 1) + torch.tensor(mean).reshape(1, -1, 1, 1)
    rows = [F.interpolate(x, (size, size), mode=m) for x, m in ((shown, "bilinear"), (colours, "nearest"))]
    gap = 6
    canvas = torch.ones(3, 2 * size + gap, len(images) * (size + gap) - gap)
    for r, row in enumerate(rows):
        for i, tile in enumerate(row.clamp(0, 1)):
            canvas[:, r * (size + gap) : r * (size + gap) + size, i * (size + gap) : i * (size + gap) + size] = tile
    save_png(canvas, path, step)
