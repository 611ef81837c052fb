"""Mean and standard deviation of each channel, image by image, without keeping the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinov3.data.decode import Pixels

PIXELS = 2**16  # of an image that are looked at, evenly spaced, at most about so many


@dataclass
class ChannelMoments:
    """Sums over images. Every image counts the same whatever its size, as it does in training."""

    mean_sum: NDArray[np.float64]  # [C] of the images' means, pixels in [0, 1]
    square_sum: NDArray[np.float64]  # [C] of the images' mean squares
    images: int = 0

    @classmethod
    def empty(cls, channels: int) -> ChannelMoments:
        return cls(np.zeros(channels), np.zeros(channels))

    def add(self, pixels: Pixels) -> None:
        """Count ``pixels [H, W, C]``."""
        height, width, channels = pixels.shape
        step = max(1, round((height * width / PIXELS) ** 0.5))
        x = pixels[::step, ::step].reshape(-1, channels).astype(np.float64) / 255
        self.mean_sum += x.mean(0)
        self.square_sum += (x**2).mean(0)
        self.images += 1

    def merge(self, other: ChannelMoments) -> None:
        """Count what ``other`` has counted."""
        self.mean_sum += other.mean_sum
        self.square_sum += other.square_sum
        self.images += other.images

    @property
    def mean(self) -> NDArray[np.float64]:
        """``[C]``."""
        return self.mean_sum / max(self.images, 1)

    @property
    def std(self) -> NDArray[np.float64]:
        """``[C]`` over all pixels of all images together."""
        return np.sqrt(np.maximum(self.square_sum / max(self.images, 1) - self.mean**2, 0))
