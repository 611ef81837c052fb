"""What is in a dataset: every image (or a sample of them) read and decoded once, in several processes.

The result does not depend on their number: images are taken in chunks, and chunks are added up in order.
"""

from __future__ import annotations

import contextlib
import math
import re
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import USUAL, Reading, Stored, kind_of, read_stored, stored_values, to_pixels
from dinov3.data.errors import BadImage, LoaderError
from dinov3.data.order import permuted
from dinov3.data.sources.source import Source
from dinov3.survey import duplicates
from dinov3.survey.channel_moments import ChannelMoments
from dinov3.system import forkserver
from dinov3.system.bars import Bar
from dinov3.system.signal_mask import ASKING, signals_blocked

BITS_OR_ALPHA = re.compile(r" (I|I;16\w*|F|RGBA|LA|PA|La|RGBa|P)$| 16 bit$")  # kinds of which the values are looked at
CHUNK = 32  # images a task
NO_LABEL = -1
# One row a readable image.
FACTS = np.dtype(
    [
        ("index", np.int64),
        ("height", np.int32),
        ("width", np.int32),
        ("channels", np.int32),
        ("label", np.int64),
        ("kind", "S24"),  # format and colour mode
        ("content", "S16"),  # hex digest of what is stored
        ("look", np.uint64),  # perceptual hash
        ("blank", np.bool_),
        ("seconds", np.float32),  # of processor time to read and decode
        ("low", np.float64),  # least and largest stored value of what has more than 8 bits, otherwise not a number
        ("high", np.float64),
        ("opacity", np.float32),  # mean, of what has an alpha channel, otherwise not a number
    ]
)

Facts = NDArray[Any]  # [N] of FACTS


@dataclass
class Survey:
    """What was found. ``facts`` and ``bad`` are in the order of the dataset."""

    images: int  # in the dataset
    examined: int
    facts: Facts  # [readable]
    bad: list[tuple[int, BadSample]] = field(default_factory=list)  # with their place in the dataset
    moments: dict[int, ChannelMoments] = field(default_factory=dict)  # by number of channels

    def copies(self) -> list[list[int]]:
        """Places in the dataset of files with the same content, group by group."""
        return [self.facts["index"][group].tolist() for group in duplicates.equal_groups(self.facts["content"])]

    def lookalikes(self) -> list[list[int]]:
        """Places in the dataset of pictures that look the same and are not equal files; blank pictures are left out."""
        _, first = np.unique(self.facts["content"], return_index=True)
        shown = self.facts[np.sort(first[~self.facts["blank"][first]])]
        looks, place, inverse = np.unique(shown["look"], return_index=True, return_inverse=True)
        pairs = place[duplicates.close_pairs(looks)]  # [N, 2] places in shown
        same = np.stack([place[inverse], np.arange(len(shown))], axis=1)  # equal hashes: each with the first of them
        pairs = np.concatenate([pairs, same[same[:, 0] != same[:, 1]]])
        return [shown["index"][group].tolist() for group in duplicates.groups(pairs)]


@dataclass
class _Chunk:
    """A Survey of a few images."""

    facts: Facts
    bad: list[tuple[int, BadSample]]
    moments: dict[int, ChannelMoments]


def chosen_indices(images: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """All indices, or ``limit`` of them drawn by ``seed``; ascending, because disks like that."""
    if limit is None or limit >= images:
        return np.arange(images)
    return np.sort(permuted(np.arange(limit), images, seed, epoch=0))


def survey(
    source: Source, *, limit: int | None = None, seed: int = 0, workers: int = 0, reading: Reading = USUAL
) -> Survey:
    """Examine ``source`` with ``workers`` processes (0: in this one), a progress bar on stderr.

    Raises LoaderError when a worker dies.
    """
    indices = chosen_indices(len(source), limit, seed)
    result = Survey(len(source), len(indices), np.empty(0, dtype=FACTS))
    tables = [result.facts]
    with Bar(len(indices), about="reading", unit="images") as bar:
        tasks = np.array_split(indices, range(CHUNK, len(indices), CHUNK))
        for chunk in _chunks(source, reading, tasks, workers):
            tables.append(chunk.facts)
            result.bad += chunk.bad
            for channels, moments in chunk.moments.items():
                result.moments.setdefault(channels, ChannelMoments.empty(channels)).merge(moments)
            bar.update(len(chunk.facts) + len(chunk.bad))
    result.facts = np.concatenate(tables)
    return result


def _chunks(source: Source, reading: Reading, tasks: Sequence[NDArray[np.int64]], workers: int) -> Iterator[_Chunk]:
    if workers == 0:
        for task in tasks:
            yield _examine_all(source, reading, task)
        return
    context = forkserver.context("forkserver", __name__)  # copies neither threads nor memory
    with signals_blocked():  # by itself: starting it takes the mask away from what follows
        forkserver.start_tracker()
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(source, reading)
    ) as pool:
        try:
            with signals_blocked():  # map starts the processes and returns at once
                chunks = pool.map(_examine_here, tasks)
            yield from chunks
        except BrokenProcessPool:
            raise LoaderError("a worker process died; mostly that means the machine ran out of memory") from None
        finally:
            pool.shutdown(cancel_futures=True)


_here: tuple[Source, Reading]  # of a worker process


def _start_worker(source: Source, reading: Reading) -> None:
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
    _here = source, reading


def _examine_here(indices: NDArray[np.int64]) -> _Chunk:
    return _examine_all(*_here, indices)


def _examine_all(source: Source, reading: Reading, indices: NDArray[np.int64]) -> _Chunk:
    rows: list[tuple[Any, ...]] = []
    thumbnails = []
    chunk = _Chunk(np.empty(0, dtype=FACTS), [], {})
    for index in indices.tolist():
        try:
            started = time.thread_time()
            stored = read_stored(source, index)
            pixels = to_pixels(stored, reading)
            seconds = time.thread_time() - started
        except BadImage as error:
            chunk.bad.append((index, BadSample(source.name(index), str(error))))
            continue
        height, width, channels = pixels.shape
        label = source.label(index)
        label = NO_LABEL if label is None else label
        kind = kind_of(stored)
        what = (index, height, width, channels, label, kind.encode(), digest(stored), 0, False, seconds)
        rows.append((*what, *values_of(stored, kind)))
        thumbnails.append(duplicates.thumbnail(pixels))
        chunk.moments.setdefault(channels, ChannelMoments.empty(channels)).add(pixels)
    chunk.facts = np.array(rows, dtype=FACTS)
    if rows:
        chunk.facts["look"] = duplicates.perceptual_hashes(np.stack(thumbnails))
        chunk.facts["blank"] = duplicates.is_flat(np.stack(thumbnails))
    return chunk


def values_of(stored: Stored, kind: str) -> tuple[float, float, float]:
    """(least value, largest value, mean opacity) as a file stores them, each where it has any."""
    low = high = opacity = math.nan
    if isinstance(stored, bytes) and BITS_OR_ALPHA.search(kind):
        with contextlib.suppress(BadImage):
            low, high, opacity = stored_values(stored)
    return low, high, opacity


def digest(stored: Stored) -> bytes:
    """A hex digest of what is stored, 16 bytes long."""
    data = stored if isinstance(stored, bytes) else repr(stored.shape).encode() + stored.tobytes()
    return blake2b(data, digest_size=8).hexdigest().encode()
