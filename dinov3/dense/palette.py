"""Colours of classes and of values, and sheets of prediction beside truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.decode import Pixels

UNLABELLED = (0.55, 0.55, 0.55)
RIGHT, WRONG = (0.93, 0.95, 0.97), (0.80, 0.15, 0.20)
TILE = 256  # px


def class_colour(number: int) -> tuple[float, float, float]:
    """Of a class: neighbours differ by the golden angle in hue, and by three levels of brightness."""
    hue, value = (number * 0.61803) % 1, (0.95, 0.7, 0.5)[number % 3]
    channels = ((n + 6 * hue) % 6 for n in (5, 3, 1))
    red, green, blue = (value * (1 - 0.75 * min(max(min(k, 4 - k), 0), 1)) for k in channels)
    return red, green, blue


def coloured(labels: Tensor, classes: int) -> Tensor:
    """``labels [H, W]`` as RGB ``[3, H, W]`` in [0, 1]; what is no class is gray."""
    table = torch.tensor([class_colour(i) for i in range(classes)] + [UNLABELLED], device=labels.device)
    inside = (labels >= 0) & (labels < classes)
    return table[torch.where(inside, labels, classes).long()].permute(2, 0, 1)


def mistakes(prediction: Tensor, truth: Tensor, ignore: int) -> Tensor:
    """RGB ``[3, H, W]``: red where the prediction is wrong, gray where nothing is labelled."""
    table = torch.tensor([RIGHT, WRONG, UNLABELLED], device=truth.device)
    kind = torch.where(truth == ignore, 2, (prediction != truth).long())
    return table[kind].permute(2, 0, 1)


def heat(values: Tensor, low: float, high: float, known: Tensor | None = None) -> Tensor:
    """``values [H, W]`` between low and high as RGB ``[3, H, W]``; gray where ``known`` is False."""
    import matplotlib  # slow to load

    share = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).nan_to_num(0)
    colours: NDArray[np.float64] = matplotlib.colormaps["magma"](share.cpu().numpy())[..., :3]
    found = torch.from_numpy(np.ascontiguousarray(colours)).to(values.device).float().permute(2, 0, 1)
    if known is None:
        return found
    return torch.where(known, found, torch.tensor(UNLABELLED, device=values.device).view(3, 1, 1))


def tile(colours: Tensor, *, smooth: bool = False) -> Tensor:
    """``[3, H, W]`` at most TILE px a side, square, so that a sheet of several sizes can be stacked."""
    if smooth:
        return F.interpolate(colours[None], (TILE, TILE), mode="bilinear", antialias=True)[0].clamp(0, 1)
    return F.interpolate(colours[None], (TILE, TILE), mode="nearest")[0]


def of_pixels(pixels: Pixels) -> Tensor:
    """``[H, W, 3]`` uint8 as ``[3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1).float() / 255


def sheet(columns: Mapping[str, Sequence[Tensor]], rows: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG: columns of tiles ``[3, H, W]``."""
    from dinov3.pictures.token_sheet import token_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    photographs = {"image", "source", "target", "frame"}
    stacked = {
        name: torch.stack([tile(t, smooth=name in photographs) for t in tiles]) for name, tiles in columns.items()
    }
    token_sheet(stacked, rows, title, path)
