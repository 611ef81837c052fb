"""The crops of one process with their depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.randomness import generator
from dinov3.dense.augment import Augment, resized_pixels, view
from dinov3.depth.measured import MeasuredSet
from dinov3.distributed.transfer import send
from dinov3.finetune.headed.stream import Rejected, Statistics, ViewStream
from dinov3.finetune.stream import Places

Sample = tuple[Tensor, Tensor]  # [C, h, w] as the backbone takes it, [h, w] m


class DepthBatch(NamedTuple):
    """``images`` [N, C, h, w] float32 as the backbone takes them; ``depths`` [N, h, w] float32 m, 0 where unknown."""

    images: Tensor
    depths: Tensor


@dataclass(frozen=True)
class Feeding(Statistics):
    """How pixels become what the backbone takes."""

    short_side: int = 0  # px, of whole images; 0: their own size

    def whole(self, pixels: Pixels) -> Tensor:
        """An image that is scored ``[C, H, W]``."""
        height, width = pixels.shape[:2]
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return self.normalised(resized_pixels(pixels, (max(1, round(scale * height)), max(1, round(scale * width)))))


class DepthStream(ViewStream[Sample, DepthBatch]):
    """Of a set with depth."""

    def __init__(
        self,
        measured: MeasuredSet,
        rules: Augment,
        feeding: Feeding,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Rejected,
    ) -> None:
        self.measured, self.rules, self.feeding = measured, rules, feeding
        super().__init__(len(measured), places, device, threads=threads, max_bad_frac=max_bad_frac, on_bad=on_bad)

    def cut(self, position: int, index: int) -> Sample:
        pixels, depth = self.measured.read(index, self.feeding.channels)
        image, truth = view(pixels, depth, self.rules, generator(self.places.seed, "depth view", position))
        return self.feeding.normalised(image), truth

    def join(self, samples: Sequence[Sample]) -> DepthBatch:
        images, depths = zip(*samples, strict=True)
        return DepthBatch(send(torch.stack(images), self.device), send(torch.stack(depths), self.device))

    def name(self, index: int) -> str:
        return self.measured.name(index)
