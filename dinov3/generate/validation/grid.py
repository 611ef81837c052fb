"""Rows of images beside each other, as one PNG, each row with its name."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from dinov3.system.files import write_whole

GAP, LEAST = 2, 96  # px: between images, and the side to which small ones are enlarged
NAMES = 84  # px for the names of the rows


def write_grid(path: Path, rows: Mapping[str, Tensor]) -> None:
    """``rows``: name -> ``[n, 3, H, W]`` in [0, 1], all of one size; images of equal numbers stand below each other."""
    first = next(iter(rows.values()))
    count, (height, width) = max(len(images) for images in rows.values()), first.shape[2:]
    grow = max(1, -(-LEAST // min(height, width)))
    height, width = height * grow, width * grow
    sheet = Image.new("RGB", (NAMES + count * (width + GAP), len(rows) * (height + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows.items()):
        top = row * (height + GAP)
        pen.text((4, top + height // 2 - 5), name.replace("_", " "), fill="black")
        for column, image in enumerate(images):
            pixels = (image.clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (NAMES + column * (width + GAP), top))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    write_whole(path, out.getvalue())
