"""From any image to what a backbone takes: whole, resized once, normalised once.

No centre crop: positions in the features are positions in the image.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov3.data.decode import USUAL, Reading, decode, fit_channels, pixels_of
from dinov3.data.errors import BadImage
from dinov3.system.paths import expanded

Picture = str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor
ROUNDING = 1e-3  # how far a float image may leave [0, 1]: bicubic resizing overshoots no further after clamping


@dataclass(frozen=True)
class Preprocess:
    """How images are prepared. Calling it turns one picture into ``[C, H, W]`` float32.

    A picture is a path, the bytes of a file, a file opened for reading them, a PIL image, uint8 pixels ``[H, W, C]`` (numpy), or a tensor
    ``[C, H, W]`` of uint8 or of floats in [0, 1].
    """

    mean: tuple[float, ...]  # of each channel, for pixels in [0, 1]
    std: tuple[float, ...]
    patch: int  # px: sides become multiples of it
    size: int | tuple[int, int] | None = None  # px: a square, (height, width), or None for the image's own
    max_side: int | None = None  # px: with size None, larger images are shrunk to it, shape kept
    interpolation: str = "bicubic"  # as in training; "bilinear" equals the Hugging Face processor
    reading: Reading = USUAL  # of files: which values are black and white in those of more than 8 bits, as in training

    def __post_init__(self) -> None:
        sides = (self.size,) if isinstance(self.size, int | float) else self.size or ()
        if not all(isinstance(side, int) for side in sides) or (isinstance(self.size, tuple) and len(sides) != 2):
            raise ValueError(f"size {self.size!r}: give px of a square, (height, width), or native or train to load")
        for side in sides:
            if side % self.patch or side < self.patch:
                low = max(side // self.patch, 1) * self.patch
                raise ValueError(
                    f"size {side}: not a multiple of the patch of {self.patch} px: use {low} or {low + self.patch}"
                )
        if self.max_side is not None and self.max_side < self.patch:
            raise ValueError(f"max_side {self.max_side}: smaller than a patch of {self.patch} px")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation {self.interpolation!r}: choose bicubic or bilinear")

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) an image of this size is resized to: by default its own, to the nearest whole patch."""
        if isinstance(self.size, int):
            return self.size, self.size
        if self.size is not None:
            return self.size
        scale = 1.0 if self.max_side is None else min(1.0, self.max_side / max(height, width))
        whole = [max(1, int(side * scale / self.patch + 0.5)) * self.patch for side in (height, width)]
        return whole[0], whole[1]

    def __call__(self, picture: Picture) -> Tensor:
        """``[C, H, W]`` float32, normalised. ValueError for values that are not in [0, 1], BadImage for a damaged file."""
        image = self._tensor(picture)  # [C, h, w] uint8, or float in [0, 1]
        wanted = self.target(*image.shape[1:])
        if wanted != tuple(image.shape[1:]):
            image = F.interpolate(image[None], wanted, mode=self.interpolation, antialias=True)[0]
        image = image.float() / 255 if image.dtype == torch.uint8 else image.clamp(0, 1)
        shape = (-1, 1, 1)
        return (image - torch.tensor(self.mean).reshape(shape)) / torch.tensor(self.std).reshape(shape)

    def accept_normalised(self, picture: Any) -> Tensor:
        """A tensor ``[C, H, W]`` that somebody else normalised, checked: floats, sides that the patch divides."""
        if not isinstance(picture, Tensor) or not picture.is_floating_point() or picture.ndim != 3:
            raise ValueError(
                "normalised=True is for float tensors [C, H, W]; leave it out and the image is normalised here"
            )
        height, width = picture.shape[1:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"a normalised image of {height}x{width}: sides must be multiples of {self.patch} px")
        self._check_channels(picture)
        return picture.float()

    def describe(self) -> dict[str, Any]:
        """Everything that changes the result, for cache keys and files."""
        size: int | Sequence[int] | None = (
            self.size if self.size is None or isinstance(self.size, int) else list(self.size)
        )
        white = self.reading.value_range
        return ({} if white is None else {"value_range": list(white)}) | {
            "mean": list(self.mean),
            "std": list(self.std),
            "patch": self.patch,
            "size": size,
            "max_side": self.max_side,
            "interpolation": self.interpolation,
        }

    def _tensor(self, picture: Picture) -> Tensor:
        if isinstance(picture, Tensor):
            return self._checked(picture)
        if isinstance(picture, str | os.PathLike):
            pixels = _decoded_file(picture, self.reading)
        elif isinstance(picture, bytes | bytearray):
            pixels = decode(bytes(picture), self.reading)
        elif hasattr(picture, "read"):
            pixels = decode(picture.read(), self.reading)
        elif isinstance(picture, Image.Image):
            pixels = pixels_of(picture)
        elif not isinstance(picture, np.ndarray):
            raise TypeError(
                f"{type(picture).__name__}: an image is a path, bytes, an open file, PIL, numpy or a tensor"
            )
        else:
            if picture.ndim not in (2, 3) or 0 in picture.shape:
                raise ValueError(f"a numpy image of shape {picture.shape}: give [H, W, C] or [H, W]")
            pixels = picture if picture.ndim == 3 else picture[:, :, None]
            if pixels.dtype != np.uint8:
                raise ValueError(
                    f"a numpy image of {pixels.dtype}: give uint8 [H, W, C], or a float tensor [C, H, W] in [0, 1]"
                )
        if {pixels.shape[2], len(self.mean)} == {1, 3}:
            pixels = fit_channels(pixels, len(self.mean))
        image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)
        self._check_channels(image)
        return image

    def _checked(self, image: Tensor) -> Tensor:
        if image.ndim != 3 or 0 in image.shape:
            raise ValueError(f"an image tensor of shape {tuple(image.shape)}: give [C, H, W]")
        if image.shape[0] == 1 and len(self.mean) == 3:
            image = image.expand(3, -1, -1)
        self._check_channels(image)
        if image.dtype == torch.uint8:
            return image
        if not image.is_floating_point():
            raise ValueError(f"an image tensor of {image.dtype}: give uint8, or floats in [0, 1]")
        low, high = float(image.min()), float(image.max())
        if not math.isfinite(low + high):
            raise ValueError("a float image with values that are not finite")
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            hint = (
                "divide by 255"
                if low >= 0 and high <= 255
                else "it seems to be normalised already: pass normalised=True"
            )
            raise ValueError(f"a float image with values from {low:.3g} to {high:.3g}: [0, 1] is expected; {hint}")
        return image.float()

    def _check_channels(self, image: Tensor) -> None:
        if image.shape[0] != len(self.mean):
            raise ValueError(
                f"an image of {image.shape[0]} channels: this backbone takes {len(self.mean)}; "
                "tensors are [C, H, W], numpy arrays [H, W, C]"
            )


def _decoded_file(path: str | os.PathLike[str], reading: Reading) -> NDArray[np.uint8]:
    """The pixels of an image file. BadImage names the file, an OSError does too."""
    with expanded(os.fspath(path)).open("rb") as file:
        content = file.read()
    try:
        return decode(content, reading)
    except BadImage as error:
        raise BadImage(f"{os.fspath(path)}: {error}") from error
