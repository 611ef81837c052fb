"""A labelled sheet of pictures: one row a crop, one column a way to look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dinov3.eval.visualize import INK, MUTED

MASK_COLOUR = (0.96, 0.96, 0.97)
TILE = 1.9  # inches


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``images [N, C, H, W]`` back in [0, 1]."""
    shape = (1, -1, 1, 1)
    return (images.float() * images.new_tensor(std).reshape(shape) + images.new_tensor(mean).reshape(shape)).clamp(0, 1)


def covered(images: Tensor, masks: Tensor) -> Tensor:
    """``images [N, 3, H, W]`` in [0, 1] with the patches of ``masks [N, rows, cols]`` painted over."""
    there = F.interpolate(masks[:, None].float(), images.shape[-2:], mode="nearest").bool()  # [N, 1, H, W]
    return torch.where(there, images.new_tensor(MASK_COLOUR).reshape(1, 3, 1, 1), images)


def token_sheet(columns: Mapping[str, Tensor], rows: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG. ``columns``: heading to RGB tiles ``[N, 3, h, w]`` in [0, 1], of any size; ``rows``: N labels."""
    n, width = len(rows), len(columns)
    # 0.62 inch for the title and the headings, 0.25 for the rows' labels
    height = n * TILE + 0.62
    figure, axes = plt.subplots(n, width, figsize=(width * TILE + 0.25, height), squeeze=False)
    for column, (heading, tiles) in enumerate(columns.items()):
        for row, tile in enumerate(tiles.cpu()):
            axis = axes[row, column]
            axis.imshow(tile.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0, column].set_title(heading, fontsize=8, color=INK, pad=4)
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(label, fontsize=7, color=MUTED, labelpad=3)
    figure.suptitle(title, x=0.25 / (width * TILE + 0.25), y=1 - 0.06 / height, ha="left", va="top", fontsize=8.5, color=INK)
    figure.subplots_adjust(
        left=0.25 / (width * TILE + 0.25), right=0.995, bottom=0.02 / height, top=1 - 0.6 / height, wspace=0.03, hspace=0.03
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
