"""One batch before its colours are touched, as one flat stretch of bytes: what workers write and devices copy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS
from dinov3.data.crops import GLOBAL_CROPS, CropGeometry

ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True)
class Part:
    """A tensor inside a slot."""

    offset: int  # bytes
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def within(self, flat: Tensor) -> Tensor:
        """This part of ``flat [bytes]`` uint8, sharing its memory."""
        return flat[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class SlotLayout:
    """Where the parts of a batch lie in a slot. The crops come first: only they travel to the device."""

    global_crops: Part  # [G, B, H, W, C] uint8
    local_crops: Part  # [L, B, h, w, C] uint8
    gram_crops: Part | None  # [G, B, Hg, Wg, C] uint8
    draws: Part  # [G + L, B, PHOTOMETRIC_DRAWS] float64 in [0, 1)
    masks: Part  # [G, B, P] bool
    crop_bytes: int
    nbytes: int

    @classmethod
    def make(cls, geometry: CropGeometry, batch_size: int) -> SlotLayout:
        """For ``batch_size`` images."""
        end = 0

        def part(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Part:
            nonlocal end
            new = Part(end, shape, dtype)
            end += -(-new.nbytes // ALIGNMENT) * ALIGNMENT
            return new

        def crops(number: int, size: int) -> Part:
            return part((number, batch_size, size, size, geometry.channels))

        global_crops = crops(GLOBAL_CROPS, geometry.global_size)
        local_crops = crops(geometry.local_number, geometry.local_size)
        gram_crops = None if geometry.gram_size is None else crops(GLOBAL_CROPS, geometry.gram_size)
        crop_bytes = end
        draws = part((geometry.views, batch_size, PHOTOMETRIC_DRAWS), torch.float64)
        masks = part((GLOBAL_CROPS, batch_size, geometry.grid**2), torch.bool)
        return cls(global_crops, local_crops, gram_crops, draws, masks, crop_bytes, end)
