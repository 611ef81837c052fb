"""What the files beside an image say of each pixel: class numbers of a mask, metres of a 16-bit depth map."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3.data.decode import DAMAGED, check_size
from dinov3.data.errors import BadImage

FORMATS = ("PNG", "TIFF")  # lossless: JPEG invents class numbers along every edge
Numbers = NDArray[np.int32]  # [H, W]


def read_numbers(path: Path) -> tuple[NDArray[np.generic], str]:
    """(values ``[H, W]`` as stored, Pillow's mode) of a one-channel image. Raises BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                check_size(*image.size)
                values, mode = np.asarray(image), image.mode
    except BadImage:
        raise
    except DAMAGED as error:
        raise BadImage(f"{path.name}: {type(error).__name__}: no {' or '.join(FORMATS)} that can be read") from error
    if values.ndim != 2:
        raise BadImage(f"{path.name}: {values.shape[2]} channels ({mode}): one number a pixel is expected, not colours")
    return values, mode


def read_mask(path: Path) -> Numbers:
    """Class numbers ``[H, W]`` of a gray, palette (its indices) or 16-bit PNG. Raises BadImage."""
    values, mode = read_numbers(path)
    if mode in ("F", "LA", "PA"):
        raise BadImage(f"{path.name}: mode {mode}: class numbers are whole: write an 8- or 16-bit PNG")
    return values.astype(np.int32)


def read_depth(path: Path, units: float) -> NDArray[np.float32]:
    """Depth ``[H, W]`` in metres of a 16-bit PNG with ``units`` a metre; 0 is unknown. Raises BadImage."""
    values, mode = read_numbers(path)
    if not mode.startswith("I"):
        why = "256 steps are no depth" if mode in ("L", "P", "1") else "its numbers are not whole ones of 16 bits"
        raise BadImage(f"{path.name}: mode {mode}, not 16 bit: {why}; write a 16-bit PNG")
    return (values.astype(np.float64) / units).astype(np.float32)


def check_labels(mask: Numbers, classes: int, ignore: int) -> None:
    """Raise BadImage for a number that is neither a class nor ``ignore``."""
    outside = (mask != ignore) & ((mask < 0) | (mask >= classes))
    if outside.any():
        raise BadImage(f"label {int(mask[outside][0])} on {int(outside.sum())} pixels, outside the {classes} classes")


def check_same_size(image: tuple[int, int], truth: tuple[int, int]) -> None:
    """Raise BadImage unless (height, width) agree."""
    if image != truth:
        raise BadImage(f"the truth is {truth[1]}x{truth[0]}, the image {image[1]}x{image[0]}: they must have one size")
