"""The stream of training batches: workers cut uint8 crops, the device of the model does the rest.

A batch is a function of (config, dataset, position, rank, world size), and under gradient accumulation of which part
of the step it is. It does not depend on the number of workers, on
what was loaded before, or on where the run was interrupted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.bad_samples import BadSample, BadSampleCount
from dinov3.data.errors import DataError, LoaderError, LoaderHang, TooManyBadSamples
from dinov3.data.feed import BatchRenderer, DeviceFeed, HostFeed
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources.mixture import order_of
from dinov3.data.sources.source import Source
from dinov3.data.workers import Filler, InlineFiller, WorkerPool

__all__ = ["CropLoader", "DataError", "LoaderError", "LoaderHang", "TooManyBadSamples"]

log = logging.getLogger(__name__)


class CropLoader(Iterator[CropBatch]):
    """Ready batches on ``device``, forever, starting with sample number ``position`` of the stream.

    ``train.gradient_accumulation_steps`` of them in a row are this process's share of one optimizer step.

    ``on_bad`` is called for every unreadable image that was replaced. ``timeout`` (seconds) is how long workers may be
    silent. Raises DataError for data that cannot be used, TooManyBadSamples above ``data.max_bad_frac``, LoaderError
    for a worker that died and LoaderHang, one of these, for workers that hang; after any of them the loader is closed.
    Use as a context manager or call ``close``.
    """

    def __init__(
        self,
        cfg: Config,
        source: Source,
        *,
        position: int,
        rank: int,
        world_size: int,
        device: torch.device,
        dtype: torch.dtype,
        on_bad: Callable[[BadSample], None] | None = None,
        timeout: float = 300.0,
        start_method: str | None = None,
    ) -> None:
        self.source = source
        if len(source) == 0:
            raise DataError("the dataset has no images")
        self.wait_seconds = 0.0  # that the consumer has spent waiting for batches, since the start
        self.position = position  # in the stream over all processes: the first sample of the next step
        self._first = position
        self._number = 0  # of the next batch, counted from where this loader started
        self._closed = False
        self._writer = SampleWriter.from_config(cfg, source, rank, world_size)
        self._count = BadSampleCount(cfg.data.max_bad_frac)
        self._on_bad = on_bad or _warn
        renderer = BatchRenderer(cfg, self._writer, device, dtype)
        self._filler: Filler
        if cfg.train.num_workers == 0:
            self._filler = InlineFiller(self._writer, position)
        else:
            self._filler = WorkerPool(self._writer, position, cfg.train.num_workers, timeout, start_method)
        self._feed: HostFeed | DeviceFeed = HostFeed(self._filler, renderer, position)
        if device.type == "cuda":
            self._feed = DeviceFeed(self._filler, renderer, position, device)

    def __iter__(self) -> CropLoader:
        return self

    def __next__(self) -> CropBatch:
        started = time.perf_counter()
        if self._closed:
            raise LoaderError("the loader is closed")
        try:
            batch, bad = self._feed.get(self._number)
            for sample in bad:
                self._on_bad(sample)
            self._count.add(self._writer.batch_size, bad)
        except BaseException:
            self.close()
            raise
        self._number += 1
        self.position, _ = self._writer.batch_at(self._first, self._number)
        self.wait_seconds += time.perf_counter() - started
        return batch

    def stage_ahead(self) -> None:
        """Start the next batch on its way to the device if workers have finished it; never waits.

        For the moment at which the device has a step to do and the host is about to wait for it.
        """
        if not self._closed:
            self._feed.stage_ahead()

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """What the images at these positions of the stream are called."""
        wanted = np.array(list(positions), dtype=np.int64)
        _, indices = order_of(self._writer.source).samples_at(wanted, self._writer.seed)
        return [self._writer.source.name(int(i)) for i in indices]

    def close(self) -> None:
        """End the workers. The loader gives no more batches."""
        self._closed = True
        self._feed.close()
        self._filler.close()

    def __enter__(self) -> CropLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _warn(bad: BadSample) -> None:
    log.warning("unreadable image, replaced by another: %s: %s", bad.name, bad.reason)
