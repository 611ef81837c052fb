"""The batches of one process: samples are read, and their noise is drawn, in threads that work ahead.

A batch is a function of (set, seed, position, process, processes), and with gradient accumulation of which part of the step it
is; never of the threads or of where the run was interrupted. Reading and drawing leave Python's lock, so threads are enough.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from dinov3.generate.shards import Sample
from dinov3.generate.training.batch import DitBatch, Draws, drawn
from dinov3.generate.training.order import BucketOrder
from dinov3.generate.training.shard_set import ShardSet

AHEAD = 2  # batches that are begun before they are asked for


class Layout:
    """Whose samples are whose: a step's ``group`` samples, process after process, each its batches one after the other."""

    def __init__(self, batch: int, accumulation: int, rank: int, world: int) -> None:
        self.batch, self.accumulation, self.rank = batch, accumulation, rank
        self.group = batch * accumulation * world

    def slots(self, number: int) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """(step counted from the first, slots ``[B]`` of that step) of this process's batch ``number``."""
        step, part = divmod(number, self.accumulation)
        first = (self.rank * self.accumulation + part) * self.batch
        return step, np.arange(first, first + self.batch, dtype=np.int64)


class BucketStream:
    """A ``Stream`` of ``DitBatch``, on ``device``, from ``position`` on (samples over all processes)."""

    def __init__(
        self,
        shards: ShardSet,
        *,
        seed: int,
        position: int,
        layout: Layout,
        device: torch.device,
        threads: int = 0,
    ) -> None:
        self.shards, self.seed, self.layout, self.device = shards, seed, layout, device
        self.order = BucketOrder(shards.counts, layout.group, seed)
        self.wait_seconds = 0.0
        self._first = position // layout.group  # the first step
        self._number = 0  # of the next batch
        self._begun: deque[tuple[list[int], list[Future[tuple[Sample, Draws]]]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shards") if threads else None

    def __next__(self) -> DitBatch:
        began = time.perf_counter()
        if self._pool is None:
            positions, places = self._batch(self._number)
            pairs = [self._sample(*place) for place in places]
        else:
            while len(self._begun) <= AHEAD:
                self._begin(self._pool, self._number + len(self._begun))
            positions, futures = self._begun.popleft()
            pairs = [future.result() for future in futures]
        self._number += 1
        samples, draws = zip(*pairs, strict=True)
        batch = DitBatch.of(samples, draws, positions).to(self.device)
        self.wait_seconds += time.perf_counter() - began
        return batch

    def _batch(self, number: int) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Positions, and (bucket, row, position) of each sample, of this process's batch ``number``."""
        step, slots = self.layout.slots(number)
        bucket, rows = self.order.rows_at(self._first + step, slots)
        positions = ((self._first + step) * self.layout.group + slots).tolist()
        return positions, [(bucket, int(row), place) for row, place in zip(rows, positions, strict=True)]

    def _begin(self, pool: ThreadPoolExecutor, number: int) -> None:
        positions, places = self._batch(number)
        self._begun.append((positions, [pool.submit(self._sample, *place) for place in places]))

    def _sample(self, bucket: int, row: int, position: int) -> tuple[Sample, Draws]:
        sample = self.shards.read(bucket, row)
        assert sample.latent is not None
        return sample, drawn(self.seed, position, sample.latent.shape)

    def stage_ahead(self) -> None:
        """Nothing: the threads are ahead already."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """Shard and number of the samples at these positions."""
        names = []
        for position in positions:
            step, slot = divmod(position, self.layout.group)
            bucket, rows = self.order.rows_at(step, np.array([slot]))
            names.append(self.shards.name(bucket, int(rows[0])))
        return names

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
