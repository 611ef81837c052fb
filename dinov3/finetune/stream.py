"""The batches of one process, forever: sample ``p`` of the stream is a function of (seed, p), whoever reads it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.bad_samples import BadSample, BadSampleCount
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.data.order import rank_positions, samples_at
from dinov3.distributed.context import rank, world_size
from dinov3.distributed.transfer import send
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.views import Views

AHEAD = 3  # batches that are read before they are asked for
MOST_TRIES = 100  # images in the place of one that cannot be read


class LabelledBatch(NamedTuple):
    """``images`` [N, C, H, W], or cached features [N, D], float32; ``labels`` [N] int64."""

    images: Tensor
    labels: Tensor


class Read(NamedTuple):
    """One sample as it leaves a thread."""

    cut: Tensor  # [size, size, C] uint8
    image: int  # the index of what was read
    bad: list[BadSample]  # those before it that could not be


class Places:
    """Which samples of the global batch are this process's, one batch after the other."""

    def __init__(self, n: int, seed: int, position: int, batch: int) -> None:
        self.n, self.seed, self.position, self.batch = n, seed, position, batch

    def take(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(positions ``[batch]`` of the stream, indices ``[batch]`` of images)."""
        positions = rank_positions(self.position, self.batch, rank(), world_size())
        self.position += self.batch * world_size()
        return positions, self.indices(positions)

    def indices(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return samples_at(positions, self.n, self.seed)[1]


class ImageStream:
    """Reads and cuts images in ``threads`` threads (decoding and resizing release the interpreter's lock)."""

    def __init__(
        self,
        labelled: LabelledSet,
        views: Views,
        places: Places,
        device: torch.device,
        *,
        threads: int,
        max_bad_frac: float,
        on_bad: Callable[[BadSample], object],
    ) -> None:
        self.labelled, self.views, self.places, self.device = labelled, views, places, device
        self.wait_seconds = 0.0
        self._count, self._on_bad = BadSampleCount(max_bad_frac), on_bad
        self._pool = ThreadPoolExecutor(max(threads, 1), thread_name_prefix="images")
        self._ahead: deque[tuple[NDArray[np.float64] | None, list[Future[Read]]]] = deque()

    def __next__(self) -> LabelledBatch:
        self._fill()
        began = time.perf_counter()
        draws, futures = self._ahead.popleft()
        found = [future.result() for future in futures]
        self.wait_seconds += time.perf_counter() - began
        self._fill()
        self._note(found)
        labels = torch.from_numpy(self.labelled.labels[[one.image for one in found]])
        cut = send(torch.stack([one.cut for one in found]), self.device)
        return LabelledBatch(self.views.finish(cut, draws), send(labels, self.device))

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            positions, indices = self.places.take()
            draws = (
                np.stack([self.views.draws(self.places.seed, int(p)) for p in positions])
                if self.views.changes
                else None
            )
            rows: Sequence[NDArray[np.float64] | None] = [None] * len(indices) if draws is None else list(draws)
            read = [self._pool.submit(self._read, int(i), own) for i, own in zip(indices, rows, strict=True)]
            self._ahead.append((draws, read))

    def _read(self, index: int, draws: NDArray[np.float64] | None) -> Read:
        """The image, or the next one that can be read in its place, with its own label."""
        bad: list[BadSample] = []
        for turn in range(min(MOST_TRIES, len(self.labelled))):
            at = (index + turn) % len(self.labelled)
            try:
                return Read(self.views.cut(self.labelled.source, at, draws), at, bad)
            except (BadImage, OSError) as error:
                bad.append(BadSample(self.labelled.source.name(at), str(error)))
        raise TooManyBadSamples(f"{len(bad)} images in a row are unreadable, the last {bad[-1].name}: {bad[-1].reason}")

    def _note(self, found: list[Read]) -> None:
        bad = [one for read in found for one in read.bad]
        for one in bad:
            self._on_bad(one)
        self._count.add(len(found), bad)

    def stage_ahead(self) -> None:
        """Nothing: the threads are at work already."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        indices = self.places.indices(np.fromiter(positions, dtype=np.int64))
        return [self.labelled.source.name(int(index)) for index in indices]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class FeatureStream:
    """The same order over features that were computed once."""

    wait_seconds = 0.0

    def __init__(self, features: Tensor, labels: Tensor, names: Callable[[int], str], places: Places) -> None:
        """``features`` [N, D] and ``labels`` [N], on the device; ``names``: of the image of a row."""
        self.features, self.labels, self.places, self._names = features, labels, places, names

    def __next__(self) -> LabelledBatch:
        indices = torch.from_numpy(self.places.take()[1]).to(self.features.device)
        return LabelledBatch(self.features[indices], self.labels[indices])

    def stage_ahead(self) -> None:
        """Nothing: all of it is there."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        return [self._names(int(row)) for row in self.places.indices(np.fromiter(positions, dtype=np.int64))]

    def close(self) -> None:
        """Nothing is open."""
