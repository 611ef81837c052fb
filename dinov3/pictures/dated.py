"""Pictures that know the training step they show."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

STEP = re.compile(rb"tEXtstep\0(\d{1,12})(?!\d)")
HEAD = 256  # bytes of a PNG; the text is written before the pixels


def save_png(canvas: Tensor, path: Path, step: int | None = None) -> None:
    """Write ``canvas [3, H, W]`` in [0, 1] as a PNG; ``step``: that of the weights it shows."""
    text = PngImagePlugin.PngInfo()
    if step is not None:
        text.add_text("step", str(step))
    pixels = (canvas.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG", pnginfo=text)


def step_shown(path: Path) -> int | None:
    """The step that ``save_png`` was given; None for a picture that does not say. Raises OSError."""
    with path.open("rb") as file:
        found = STEP.search(file.read(HEAD))
    return int(found[1]) if found else None
