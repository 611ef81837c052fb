"""Views of one process, forever: sample ``p`` of the stream is a function of (seed, p), whoever cuts it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample, BadSampleCount
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.finetune.stream import AHEAD, MOST_TRIES, Places

S = TypeVar("S")  # a sample
B = TypeVar("B")  # a batch of them
Rejected = Callable[[BadSample], object]


@dataclass(frozen=True)
class Statistics:
    """Of the channels, by which a backbone is fed."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mean)

    def normalised(self, image: Tensor) -> Tensor:
        """``[..., C, H, W]`` in [0, 1]."""
        mean, std = (torch.tensor(x, device=image.device).view(-1, 1, 1) for x in (self.mean, self.std))
        return (image - mean) / std


class Read(NamedTuple, Generic[S]):
    """One sample as it leaves a thread."""

    sample: S
    bad: list[BadSample]  # images before it that could not be used


class ViewStream(ABC, Generic[S, B]):
    """Reads and cuts in ``threads`` threads; an image that cannot be used gives its place to the next one."""

    def __init__(
        self,
        n: int,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Rejected,
    ) -> None:
        """``n``: images of the set."""
        self.n, self.places, self.device = n, places, device
        self.wait_seconds = 0.0
        self._count, self._on_bad = BadSampleCount(max_bad_frac), on_bad
        self._pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="views")
        self._ahead: deque[list[Future[Read[S]]]] = deque()

    @abstractmethod
    def cut(self, position: int, index: int) -> S:
        """The view of image ``index`` for sample ``position``. Raises BadImage."""

    @abstractmethod
    def join(self, samples: Sequence[S]) -> B:
        """A batch, on the device."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What an image is called."""

    def __next__(self) -> B:
        self._fill()
        began = time.perf_counter()
        found = [future.result() for future in self._ahead.popleft()]
        self.wait_seconds += time.perf_counter() - began
        self._fill()
        bad = [one for read in found for one in read.bad]
        for one in bad:
            self._on_bad(one)
        self._count.add(len(found), bad)
        return self.join([read.sample for read in found])

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            positions, indices = self.places.take()
            pairs = zip(positions, indices, strict=True)
            self._ahead.append([self._pool.submit(self._read, int(p), int(i)) for p, i in pairs])

    def _read(self, position: int, index: int) -> Read[S]:
        """The image, or the next one that can be used in its place, with its own truth."""
        bad: list[BadSample] = []
        for turn in range(min(MOST_TRIES, self.n)):
            at = (index + turn) % self.n
            try:
                return Read(self.cut(position, at), bad)
            except BadImage as error:
                bad.append(BadSample(self.name(at), str(error)))
        raise TooManyBadSamples(f"{len(bad)} images in a row are unusable, the last {bad[-1].name}: {bad[-1].reason}")

    def stage_ahead(self) -> None:
        """Nothing: the threads are at work already."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        indices = self.places.indices(np.fromiter(positions, dtype=np.int64))
        return [self.name(int(index)) for index in indices]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
