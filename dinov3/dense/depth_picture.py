"""Depth beside its truth as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.depth_metrics import valid_pixels
from dinov3.dense.palette import heat, of_pixels, sheet

ERROR = "error / truth, 0 to 0.5"


def draw_depth(
    shown: Sequence[tuple[Pixels, Tensor, Tensor]],
    low: float,
    high: float,
    names: Sequence[str],
    title: str,
    path: Path,
    *,
    eigen: bool = False,
) -> None:
    """Image, truth, prediction ``[H, W]`` and relative error, one row an image; near is dark, of unknown depth gray."""
    columns: dict[str, list[Tensor]] = {"image": [], "truth": [], "prediction": [], ERROR: []}
    for pixels, truth, prediction in shown:
        valid = valid_pixels(truth, low, high, eigen=eigen)
        logs = truth[valid].log() if valid.any() else torch.zeros(1)
        first, last = float(logs.min()), float(logs.max())
        columns["image"].append(of_pixels(pixels))
        columns["truth"].append(heat(truth.clamp_min(1e-9).log(), first, last, valid))
        columns["prediction"].append(heat(prediction.log(), first, last))
        columns[ERROR].append(heat((prediction - truth).abs() / truth.clamp_min(1e-9), 0, 0.5, valid))
    sheet(columns, names, title, path)
