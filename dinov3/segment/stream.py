"""The crops of one process: resized, cut out, mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.randomness import generator
from dinov3.dense.augment import Augment, resized_pixels, view
from dinov3.distributed.transfer import send
from dinov3.finetune.headed.stream import Rejected, Statistics, ViewStream
from dinov3.finetune.stream import Places
from dinov3.segment.masked import MaskedSet

Sample = tuple[Tensor, Tensor]  # [C, S, S] as the backbone takes it, so that a GPU does not wait for it; [S, S]


class SegmentBatch(NamedTuple):
    """``images`` [N, C, S, S] float32 as the backbone takes them; ``masks`` [N, S, S] int32 class numbers."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Feeding(Statistics):
    """How pixels become what the backbone takes."""

    short_side: int = 0  # px, of whole images; 0: their own size

    def whole(self, pixels: Pixels) -> Tensor:
        """An image that is scored ``[C, H, W]``."""
        height, width = pixels.shape[:2]
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return self.normalised(resized_pixels(pixels, (max(1, round(scale * height)), max(1, round(scale * width)))))


class CropStream(ViewStream[Sample, SegmentBatch]):
    """Of a set with masks."""

    def __init__(
        self,
        masked: MaskedSet,
        rules: Augment,
        feeding: Feeding,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Rejected,
    ) -> None:
        self.masked, self.rules, self.feeding = masked, rules, feeding
        super().__init__(len(masked), places, device, threads=threads, max_bad_frac=max_bad_frac, on_bad=on_bad)

    def cut(self, position: int, index: int) -> Sample:
        pixels, mask = self.masked.read(index, self.feeding.channels)
        image, labels = view(pixels, mask, self.rules, generator(self.places.seed, "segment view", position))
        return self.feeding.normalised(image), labels

    def join(self, samples: Sequence[Sample]) -> SegmentBatch:
        images, masks = zip(*samples, strict=True)
        return SegmentBatch(send(torch.stack(images), self.device), send(torch.stack(masks), self.device))

    def name(self, index: int) -> str:
        return self.masked.dense.name(index)
