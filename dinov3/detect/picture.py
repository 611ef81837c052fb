"""Boxes drawn on images: the truth beside what was said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.palette import TILE, UNLABELLED, class_colour, of_pixels, sheet
from dinov3.detect.answers import plain_nms
from dinov3.detect.metric import Found
from dinov3.system.files import replacing

LEAST_SHOWN = 0.3  # score of a box that is drawn
SAME_PLACE = 0.5  # IoU


def draw(seen: Sequence[tuple[Pixels, Found]], classes: Sequence[str], title: str, path: Path) -> None:
    """A PNG: image, true boxes (gray: ignored), and boxes said with their scores, the best at each place."""
    columns: dict[str, list[Tensor]] = {"image": [], "truth": [], "prediction": []}
    for pixels, found in seen:
        columns["image"].append(of_pixels(_colours(pixels)))
        truth = found.truth
        gray = [
            UNLABELLED if ignored else class_colour(int(c))
            for c, ignored in zip(truth.classes, truth.ignored, strict=True)
        ]
        columns["truth"].append(boxed(pixels, truth.corners, gray, [classes[int(c)] for c in truth.classes]))
        kept = drawn(found)
        said = found.classes[kept]
        texts = [f"{classes[int(c)]} {score:.2f}" for c, score in zip(said, found.scores[kept], strict=True)]
        columns["prediction"].append(boxed(pixels, found.corners[kept], [class_colour(int(c)) for c in said], texts))
    with replacing(path) as fresh:
        sheet(columns, [f"image {i}" for i in range(len(seen))], title, fresh)


def drawn(found: Found) -> NDArray[np.int64]:
    """Indices of the boxes that are drawn, the best last, on top: of those at one place the best, whatever its class."""
    likely = np.flatnonzero(found.scores >= LEAST_SHOWN)
    corners, scores = (torch.from_numpy(part[likely]) for part in (found.corners, found.scores))
    alone = plain_nms(corners, scores, torch.zeros(len(likely), dtype=torch.int64), SAME_PLACE)
    return likely[alone.flip(0).numpy()]


def boxed(
    pixels: Pixels, corners: NDArray[np.float32], colours: Sequence[tuple[float, float, float]], texts: Sequence[str]
) -> Tensor:
    """``[3, H, W]`` in [0, 1] of pixels ``[H, W, C]`` with boxes and a word at each, large enough to be read."""
    factor = max(1.0, TILE / max(pixels.shape[:2]))
    picture = Image.fromarray(_colours(pixels))
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 128))
    font = ImageFont.load_default(max(picture.size) / 14)  # readable in a tile of a sheet
    for box, colour, text in zip(corners, colours, texts, strict=True):
        shade = tuple(round(255 * part) for part in colour)
        left, top, right, bottom = (float(number) * factor for number in box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=shade, width=line)
        pen.text((left + line + 1, top + line), text, fill="white", font=font, stroke_width=2, stroke_fill=shade)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def _colours(pixels: Pixels) -> Pixels:
    """Three channels: of one, gray; of others, the first three."""
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])
