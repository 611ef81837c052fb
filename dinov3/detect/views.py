"""Square views of an image with its boxes: cut out at random for training, the whole image for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.augment import resized_pixels
from dinov3.dense.feeding import Statistics
from dinov3.detect.boxes import Boxes, Move
from dinov3.distributed.transfer import send


class Truth(NamedTuple):
    """The boxes of one view."""

    corners: Tensor  # [n, 4] float32: left, top, right, bottom
    classes: Tensor  # [n] int64
    ignored: Tensor  # [n] bool


@dataclass(frozen=True)
class Views(Statistics):
    """``side`` px, padded with the mean colour; ``scale``: times which the longer side is ``side`` (Ghiasi et al. 2021)."""

    side: int = 512
    scale: tuple[float, float] = (1.0, 1.0)

    def cut(self, pixels: Pixels, boxes: Boxes, rng: np.random.Generator) -> tuple[Tensor, Boxes]:
        """(image ``[C, side, side]``, boxes) at a random scale and place, mirrored half of the time."""
        height, width = self._size(pixels, float(rng.uniform(*self.scale)))
        left, top = (
            int(rng.integers(min(0, self.side - length), max(0, self.side - length) + 1)) for length in (width, height)
        )
        mirrored = bool(rng.random() < 0.5)
        image = self._placed(pixels, (height, width), (left, top))
        move = Move((width / pixels.shape[1], height / pixels.shape[0]), (left, top), mirrored, self.side)
        return image.flip(-1) if mirrored else image, boxes.moved(move)

    def together(self, truths: Sequence[Boxes], device: torch.device) -> list[Truth]:
        """On the device."""
        each = ((boxes.corners, boxes.classes, boxes.ignored) for boxes in truths)
        return [Truth(*(send(torch.from_numpy(array), device) for array in arrays)) for arrays in each]

    def whole(self, pixels: Pixels) -> tuple[Tensor, tuple[float, float]]:
        """(image ``[C, side, side]`` with the whole of it in the upper left corner, (x, y) factors of its boxes)."""
        height, width = self._size(pixels, 1.0)
        image = self._placed(pixels, (height, width), (0, 0))
        return image, (width / pixels.shape[1], height / pixels.shape[0])

    def _size(self, pixels: Pixels, scale: float) -> tuple[int, int]:
        factor = scale * self.side / max(pixels.shape[0], pixels.shape[1])
        return max(1, round(factor * pixels.shape[0])), max(1, round(factor * pixels.shape[1]))

    def _placed(self, pixels: Pixels, size: tuple[int, int], at: tuple[int, int]) -> Tensor:
        """Resized to ``size`` (height, width), its corner at ``at`` (left, top), which may lie outside."""
        image = self.normalised(resized_pixels(pixels, size))
        view = torch.zeros(image.shape[0], self.side, self.side)  # the mean colour
        (left, top), (height, width) = at, size
        rows, columns = (slice(max(0, first), min(self.side, first + n)) for first, n in ((top, height), (left, width)))
        view[:, rows, columns] = image[
            :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        return view
