"""A labelled sheet of pictures: one row a crop, one column a way to look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from dinov3.config.shown import shown
from dinov3.pictures.pca import INK, MUTED
from dinov3.system.files import replacing

MASK_COLOUR, MASK_OPACITY = (0.90, 0.27, 0.55), 0.75  # rare in photographs, and lets what is hidden shine through
TILE, SIDE, TOP = 1.9, 0.25, 0.46  # inches: a tile, the rows' labels, title and headings
MOST_STRETCHED = 3  # beyond that a tile is squeezed


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``images [N, C, H, W]`` back in [0, 1]."""
    shape = (1, -1, 1, 1)
    return (images.float() * images.new_tensor(std).reshape(shape) + images.new_tensor(mean).reshape(shape)).clamp(0, 1)


def covered(images: Tensor, masks: Tensor) -> Tensor:
    """``images [N, 3, H, W]`` in [0, 1] with the patches of ``masks [N, rows, cols]`` tinted."""
    there = F.interpolate(masks[:, None].float(), images.shape[-2:], mode="nearest").bool()  # [N, 1, H, W]
    return torch.where(there, images.lerp(images.new_tensor(MASK_COLOUR).reshape(1, 3, 1, 1), MASK_OPACITY), images)


def shortened(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters; the middle goes, beginning and end tell files apart."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def fit(text: Text, length: float) -> None:
    """Shorten what is written, to no less than three characters, until it is no longer than ``length`` px of the figure."""
    whole = text.get_text()

    def fits(most: int) -> bool:
        text.set_text(shortened(whole, most))
        return float(max(text.get_window_extent().size)) <= length

    low, high = 3, len(whole)
    if high <= low or fits(high):
        return
    while high - low > 1:  # by halves: a path may have 4,000 characters, and measuring them all takes minutes
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    text.set_text(shortened(whole, low))


def token_sheet(columns: Mapping[str, Tensor], rows: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG. ``columns``: heading to RGB tiles ``[N, 3, h, w]`` in [0, 1], of any size; ``rows``: N labels.

    Labels and title are shortened to what fits.
    """
    n, width = len(rows), len(columns)
    rows_px, cols_px = next(iter(columns.values())).shape[-2:]
    tall = min(max(rows_px / cols_px, 1 / MOST_STRETCHED), MOST_STRETCHED)  # a tile has the shape of the images
    size = (width * TILE + SIDE, n * TILE * tall + TOP)
    figure = Figure(figsize=size, dpi=110)
    FigureCanvasAgg(figure)  # measures text; not pyplot, whose backend is the caller's
    axes = figure.subplots(n, width, squeeze=False)
    for column, (heading, tiles) in enumerate(columns.items()):
        for row, tile in enumerate(tiles.cpu()):
            axis = axes[row, column]
            axis.imshow(tile.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0, column].set_title(heading, fontsize=8, color=INK, pad=4)
    figure.subplots_adjust(
        left=SIDE / size[0], right=0.995, bottom=0.03 / size[1], top=1 - TOP / size[1], wspace=0.03, hspace=0.03
    )
    for row, label in enumerate(rows):
        side = axes[row, 0].set_ylabel(shown(label), fontsize=7, color=MUTED, labelpad=3, parse_math=False)
        fit(side, axes[row, 0].get_window_extent().height)
    place = {"x": SIDE / size[0], "y": 1 - 0.07 / size[1], "ha": "left", "va": "top"}
    top = figure.suptitle(shown(title), **place, fontsize=8.5, color=INK, parse_math=False)
    fit(top, figure.bbox.width * (1 - SIDE / size[0]))
    with replacing(path) as fresh:
        figure.savefig(fresh)
