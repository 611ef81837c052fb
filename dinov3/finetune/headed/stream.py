"""Views of one process, forever: sample ``p`` of the stream is a function of (seed, p), whoever cuts it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample, BadSampleCount
from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.data.randomness import generator
from dinov3.distributed.transfer import send
from dinov3.finetune.headed.scoring import TrueSet
from dinov3.finetune.stream import AHEAD, MOST_TRIES, Places

Rejected = Callable[[BadSample], object]


class Views(Protocol):
    """How a view is cut out of an image with its truth."""

    @property
    def channels(self) -> int: ...

    def cut(self, pixels: Pixels, truth: Any, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """(image ``[C, h, w]`` float32 as the backbone takes it, the truth of the view)."""
        ...

    def together(self, truths: Sequence[Any], device: torch.device) -> Any:
        """The truths of a batch, on the device."""


class ViewBatch(NamedTuple):
    """``images`` [N, C, h, w] float32 as the backbone takes them; ``truths`` as ``Views.together`` makes them."""

    images: Tensor
    truths: Any


class Read(NamedTuple):
    """One sample as it leaves a thread."""

    image: Tensor
    truth: Any
    bad: list[BadSample]  # images before it that could not be used


class ViewStream:
    """Reads and cuts in ``threads`` threads; an image that cannot be used gives its place to the next one."""

    def __init__(
        self,
        images: TrueSet,
        views: Views,
        purpose: str,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Rejected,
    ) -> None:
        """``purpose``: of the random numbers that views are cut by."""
        self.images, self.views, self.purpose = images, views, purpose
        self.places, self.device = places, device
        self.wait_seconds = 0.0
        self._count, self._on_bad = BadSampleCount(max_bad_frac), on_bad
        self._pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="views")
        self._ahead: deque[list[Future[Read]]] = deque()

    def __next__(self) -> ViewBatch:
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
        return ViewBatch(images, self.views.together([read.truth for read in found], self.device))

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            positions, indices = self.places.take()
            pairs = zip(positions, indices, strict=True)
            self._ahead.append([self._pool.submit(self._read, int(p), int(i)) for p, i in pairs])

    def _read(self, position: int, index: int) -> Read:
        """The image, or the next one that can be used in its place, with its own truth."""
        bad: list[BadSample] = []
        for turn in range(min(MOST_TRIES, len(self.images))):
            at = (index + turn) % len(self.images)
            try:
                pixels, truth = self.images.read(at, self.views.channels)
                rng = generator(self.places.seed, self.purpose, position)
                return Read(*self.views.cut(pixels, truth, rng), bad)
            except BadImage as error:
                bad.append(BadSample(self.images.name(at), str(error)))
        raise TooManyBadSamples(f"{len(bad)} images in a row are unusable, the last {bad[-1].name}: {bad[-1].reason}")

    def stage_ahead(self) -> None:
        """Nothing: the threads are at work already."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        indices = self.places.indices(np.fromiter(positions, dtype=np.int64))
        return [self.images.name(int(index)) for index in indices]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
