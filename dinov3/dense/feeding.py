"""How pixels become what a backbone takes: whole images, and random crops with their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.augment import Augment, resized_pixels, view
from dinov3.distributed.transfer import send

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Statistics:
    """Of the channels, by which a backbone is fed."""

    mean: Numbers
    std: Numbers

    @property
    def channels(self) -> int:
        return len(self.mean)

    def normalised(self, image: Tensor) -> Tensor:
        """``[..., C, H, W]`` in [0, 1]."""
        mean, std = (torch.tensor(x, device=image.device).view(-1, 1, 1) for x in (self.mean, self.std))
        return (image - mean) / std


def statistics_of(preprocess: Mapping[str, Any]) -> tuple[Numbers, Numbers]:
    """(mean, std) of the backbone whose file says ``preprocess``."""
    return tuple(preprocess["mean"]), tuple(preprocess["std"])


@dataclass(frozen=True)
class Feeding(Statistics):
    """Whole images."""

    short_side: int = 0  # px; 0: their own size

    def whole(self, pixels: Pixels) -> Tensor:
        """An image that is scored ``[C, H, W]``."""
        height, width = pixels.shape[:2]
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return self.normalised(resized_pixels(pixels, (max(1, round(scale * height)), max(1, round(scale * width)))))


@dataclass(frozen=True)
class Crops:
    """Views trained on, whose truth is a number a pixel. Normalised in threads, so that a GPU does not wait for it."""

    feeding: Feeding
    rules: Augment

    @property
    def channels(self) -> int:
        return self.feeding.channels

    def cut(self, pixels: Pixels, truth: NDArray[np.generic], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(image ``[C, h, w]`` as the backbone takes it, truth ``[h, w]``)."""
        image, numbers = view(pixels, truth, self.rules, rng)
        return self.feeding.normalised(image), numbers

    def together(self, truths: Sequence[Tensor], device: torch.device) -> Tensor:
        """``[N, h, w]`` on the device."""
        return send(torch.stack(list(truths)), device)
