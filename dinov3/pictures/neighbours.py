"""Pictures of a run: images, each beside those that are nearest by class tokens."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.pictures.dated import save_png

RIGHT, WRONG = (0.17, 0.42, 0.69), (0.87, 0.42, 0.13)  # blue and orange: told apart by everyone
TILE, FRAME, GAP, APART = 80, 4, 4, 16  # px; APART: between an image and its neighbours


def neighbour_sheet(queries: Tensor, found: Tensor, right: Tensor, path: Path, step: int | None = None) -> None:
    """Write a PNG: a row an image of ``queries [Q, 3, h, w]``, then its neighbours ``found [Q, K, 3, h, w]``, the nearest
    first, all in [0, 1]; framed in blue where ``right [Q, K]`` is True, else in orange. ``step``: of the backbone's
    training.
    """
    rows, columns = right.shape
    cell = TILE + 2 * FRAME
    width = cell + APART + columns * (cell + GAP) - GAP
    canvas = torch.ones(3, rows * (cell + GAP) - GAP, width)
    for row in range(rows):
        top = row * (cell + GAP)
        _place(canvas, queries[row], top, 0, None)
        for column in range(columns):
            left = cell + APART + column * (cell + GAP)
            _place(canvas, found[row, column], top, left, RIGHT if right[row, column] else WRONG)
    save_png(canvas, path, step)


def _place(canvas: Tensor, image: Tensor, top: int, left: int, frame: tuple[float, float, float] | None) -> None:
    side = TILE + 2 * FRAME
    if frame is not None:
        canvas[:, top : top + side, left : left + side] = torch.tensor(frame).reshape(3, 1, 1)
    tile = F.interpolate(image[None].float().cpu(), (TILE, TILE), mode="bilinear", antialias=True)[0].clamp(0, 1)
    canvas[:, top + FRAME : top + FRAME + TILE, left + FRAME : left + FRAME + TILE] = tile
