"""Matches drawn: a point of the source and what was found for it in the target have one colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from dinov3.config.shown import shown as as_shown
from dinov3.pictures.token_sheet import unnormalised
from dinov3.system.files import replacing

MOST = 400  # points a pair


def match_picture(
    shown: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    mean: Sequence[float],
    std: Sequence[float],
    title: str,
    path: Path,
) -> None:
    """Write a PNG: rows of (source, target), points ``[N, 2]`` in both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6, 3 * len(shown) + 0.4), dpi=110)
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for row, (source, target, from_xy, to_xy) in zip(axes, shown, strict=True):
        height, width = source.shape[-2:]
        step = -(-len(from_xy) // MOST) or 1
        places = from_xy[::step].numpy()
        hue = np.stack([places[:, 0] / width, places[:, 1] / height, np.full(len(places), 0.6)], axis=1).clip(0, 1)
        for axis, image, points in zip(row, (source, target), (places, to_xy[::step].numpy()), strict=True):
            axis.imshow(unnormalised(image[None], mean, std)[0].permute(1, 2, 0).numpy())
            axis.scatter(points[:, 0] - 0.5, points[:, 1] - 0.5, c=hue, s=9, edgecolors="white", linewidths=0.2)
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_title("source", fontsize=8)
    axes[0, 1].set_title("target", fontsize=8)
    figure.suptitle(as_shown(title), fontsize=8.5, parse_math=False)
    figure.tight_layout()
    with replacing(path) as fresh:
        figure.savefig(fresh)
