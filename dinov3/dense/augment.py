"""One random view of an image and its truth, for training a head on fresh crops. The truth is never blended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.windows import Size


@dataclass(frozen=True)
class Augment:
    """What is drawn for a view."""

    crop: Size
    fill: float  # of the truth outside the image: the number that is ignored
    short_side: int = 0  # px the image is resized to first; 0: its own
    ratio: tuple[float, float] = (1.0, 1.0)  # times which it is resized
    brightness: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0  # degrees, to either side


def view(pixels: Pixels, truth: NDArray[np.generic], rules: Augment, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(image ``[C, h, w]`` float in [0, 1], truth ``[h, w]``) of the crop's size.

    Resized, turned, cropped (what lies outside is black, with the truth ``fill``), mirrored half of the time.
    """
    if rules.rotation:
        pixels, truth = _turned(pixels, truth, float(rng.uniform(-rules.rotation, rules.rotation)), rules.fill)
    scale = float(rng.uniform(*rules.ratio))
    if rules.short_side:
        scale *= rules.short_side / min(truth.shape)
    size = max(1, round(scale * truth.shape[0])), max(1, round(scale * truth.shape[1]))
    image = resized_pixels(pixels, size)
    labels = nearest(torch.from_numpy(np.require(truth, requirements=["C", "W"])), size)
    image, labels = _padded(image, labels, rules)
    top = int(rng.integers(image.shape[1] - rules.crop[0] + 1))
    left = int(rng.integers(image.shape[2] - rules.crop[1] + 1))
    part = slice(top, top + rules.crop[0]), slice(left, left + rules.crop[1])
    image, labels = image[:, part[0], part[1]], labels[part[0], part[1]]
    if rng.random() < 0.5:
        image, labels = image.flip(-1), labels.flip(-1)
    return (image * float(rng.uniform(*rules.brightness))).clamp(0, 1), labels


def resized_pixels(pixels: Pixels, size: Size) -> Tensor:
    """``[C, *size]`` float in [0, 1] of ``pixels [H, W, C]`` uint8; antialiased where it shrinks."""
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None].float() / 255
    if tuple(image.shape[-2:]) != size:
        image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    return image[0]


def nearest(truth: Tensor, size: Size) -> Tensor:
    """``truth [H, W]`` at another size, each number one that was there."""
    if tuple(truth.shape) == size:
        return truth
    rows = ((torch.arange(size[0]) * 2 + 1) * truth.shape[0]) // (2 * size[0])
    columns = ((torch.arange(size[1]) * 2 + 1) * truth.shape[1]) // (2 * size[1])
    return truth[rows][:, columns]


def _turned(
    pixels: Pixels, truth: NDArray[np.generic], degrees: float, fill: float
) -> tuple[Pixels, NDArray[np.generic]]:
    image = np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR))
    plane = Image.fromarray(truth).rotate(degrees, Image.Resampling.NEAREST, fillcolor=fill)
    return image, np.asarray(plane).astype(truth.dtype)


def _padded(image: Tensor, labels: Tensor, rules: Augment) -> tuple[Tensor, Tensor]:
    down = max(0, rules.crop[0] - labels.shape[0])
    right = max(0, rules.crop[1] - labels.shape[1])
    return F.pad(image, (0, right, 0, down)), F.pad(labels, (0, right, 0, down), value=rules.fill)
