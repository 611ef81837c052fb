"""The crops of one process, forever: sample ``p`` of the stream is a function of (seed, p), whoever cuts it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample, BadSampleCount
from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.data.randomness import generator
from dinov3.dense.augment import Augment, resized_pixels, view
from dinov3.distributed.transfer import send
from dinov3.finetune.stream import AHEAD, MOST_TRIES, Places
from dinov3.segment.masked import MaskedSet


class SegmentBatch(NamedTuple):
    """``images`` [N, C, S, S] float32 as the backbone takes them; ``masks`` [N, S, S] int32 class numbers."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Feeding:
    """How pixels become what the backbone takes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int = 0  # px, of whole images; 0: their own size

    @property
    def channels(self) -> int:
        return len(self.mean)

    def normalised(self, image: Tensor) -> Tensor:
        """``[..., C, H, W]`` in [0, 1]."""
        mean, std = (torch.tensor(x, device=image.device).view(-1, 1, 1) for x in (self.mean, self.std))
        return (image - mean) / std

    def whole(self, pixels: Pixels) -> Tensor:
        """An image that is scored ``[C, H, W]``."""
        height, width = pixels.shape[:2]
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return self.normalised(resized_pixels(pixels, (max(1, round(scale * height)), max(1, round(scale * width)))))


class Read(NamedTuple):
    """One sample as it leaves a thread."""

    image: Tensor  # [C, S, S] as the backbone takes it: normalised in the thread, so that a GPU is not waited for
    mask: Tensor  # [S, S]
    bad: list[BadSample]  # images before it that could not be used


class CropStream:
    """Reads, resizes, cuts out and mirrors in ``threads`` threads."""

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
        on_bad: Callable[[BadSample], object],
    ) -> None:
        self.masked, self.rules, self.feeding, self.places, self.device = masked, rules, feeding, places, device
        self.wait_seconds = 0.0
        self._count, self._on_bad = BadSampleCount(max_bad_frac), on_bad
        self._pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="crops")
        self._ahead: deque[list[Future[Read]]] = deque()

    def __next__(self) -> SegmentBatch:
        self._fill()
        began = time.perf_counter()
        found = [future.result() for future in self._ahead.popleft()]
        self.wait_seconds += time.perf_counter() - began
        self._fill()
        bad = [one for read in found for one in read.bad]
        for one in bad:
            self._on_bad(one)
        self._count.add(len(found), bad)
        images = send(torch.stack([read.image for read in found]), self.device)
        masks = send(torch.stack([read.mask for read in found]), self.device)
        return SegmentBatch(images, masks)

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            positions, indices = self.places.take()
            pairs = zip(positions, indices, strict=True)
            self._ahead.append([self._pool.submit(self._read, int(p), int(i)) for p, i in pairs])

    def _read(self, position: int, index: int) -> Read:
        """The image, or the next one that can be used in its place, with its own mask."""
        bad: list[BadSample] = []
        for turn in range(min(MOST_TRIES, len(self.masked))):
            at = (index + turn) % len(self.masked)
            try:
                pixels, mask = self.masked.read(at, self.feeding.channels)
            except BadImage as error:
                bad.append(BadSample(self.masked.dense.name(at), str(error)))
                continue
            image, labels = view(pixels, mask, self.rules, generator(self.places.seed, "segment view", position))
            return Read(self.feeding.normalised(image), labels, bad)
        raise TooManyBadSamples(f"{len(bad)} images in a row are unusable, the last {bad[-1].name}: {bad[-1].reason}")

    def stage_ahead(self) -> None:
        """Nothing: the threads are at work already."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        indices = self.places.indices(np.fromiter(positions, dtype=np.int64))
        return [self.masked.dense.name(int(index)) for index in indices]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
