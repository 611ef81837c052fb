"""The views of one process with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.data.randomness import generator
from dinov3.detect.boxed import BoxedSet
from dinov3.detect.boxes import Boxes
from dinov3.detect.views import Views
from dinov3.distributed.transfer import send
from dinov3.finetune.headed.stream import Rejected, ViewStream
from dinov3.finetune.stream import Places


class Truth(NamedTuple):
    """The boxes of one view."""

    corners: Tensor  # [n, 4] float32: left, top, right, bottom
    classes: Tensor  # [n] int64
    ignored: Tensor  # [n] bool


class DetectBatch(NamedTuple):
    """``images`` [N, C, S, S] float32 as the backbone takes them; ``truths``: N of them."""

    images: Tensor
    truths: list[Truth]


class BoxStream(ViewStream[tuple[Tensor, Boxes], DetectBatch]):
    """Of a set with boxes."""

    def __init__(
        self,
        boxed: BoxedSet,
        views: Views,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Rejected,
    ) -> None:
        self.boxed, self.views = boxed, views
        super().__init__(len(boxed), places, device, threads=threads, max_bad_frac=max_bad_frac, on_bad=on_bad)

    def cut(self, position: int, index: int) -> tuple[Tensor, Boxes]:
        pixels, boxes = self.boxed.read(index, self.views.channels)
        return self.views.cut(pixels, boxes, generator(self.places.seed, "detect view", position))

    def join(self, samples: Sequence[tuple[Tensor, Boxes]]) -> DetectBatch:
        images = send(torch.stack([image for image, _ in samples]), self.device)
        return DetectBatch(images, [truth_of(boxes, self.device) for _, boxes in samples])

    def name(self, index: int) -> str:
        return self.boxed.name(index)


def truth_of(boxes: Boxes, device: torch.device) -> Truth:
    """On the device."""
    arrays = (boxes.corners, boxes.classes, boxes.ignored)
    return Truth(*(send(torch.from_numpy(array), device) for array in arrays))
