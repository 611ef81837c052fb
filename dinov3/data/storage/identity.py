"""What identifies a data set: its content, wherever it lies.

A run must continue on the images it was started with. Names alone do not say that: other images may come under the same
names. So the content is identified by the names, all sizes, and pieces of SAMPLES images drawn once and for all; stores
whose images have no places of their own (HDF5, Parquet) by the sizes of their files and pieces of their bytes. Where the data
set lies is no part of it: a copy, a renamed mount or another spelling of the path is the same data set, and so is a folder
packed into a tar or an LMDB under the same names.

Cost: a look at the size of every file once per start, and some hundred small reads: 3.0 to 3.4 s of processor time
for a million files on a local disk, beside 2.6 s to list them anew.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION = "2:"  # what identifiers of content begin with; those of runs begun before are of names only
SAMPLES = 256  # images that are looked into: of 1 % exchanged images one is met with 92 % probability
PIECE = 2**14  # bytes at the start, in the middle and at the end
THREADS, SLOW = 16, 50e-6  # a network file system answers many at once; above so many seconds a file it is asked so
PLACES = 1000  # a task
MISSING = -1  # size of a file that is not there

Place = tuple[bytes, int]  # a file, and where in it an image begins


class Match(Enum):
    """How a recorded data set compares with this one."""

    SAME = "the same images"
    SAME_NAMES = "images of the same names; the run was begun before their content was recorded"
    DIFFERENT = "other images"


class Identity(NamedTuple):
    """``content``: the same text for the same images in the same order, wherever they are. ``place``: where they are, to be
    shown. ``legacy``: what a program before recorded instead of the content, of names alone.
    """

    content: str
    place: str
    legacy: str

    def compare(self, recorded: str) -> Match:
        """``recorded``: the ``content`` of the data set a run was started with, or the ``legacy`` of an older run."""
        if recorded.startswith(VERSION):
            return Match.SAME if recorded == self.content else Match.DIFFERENT
        return Match.SAME_NAMES if recorded == self.legacy else Match.DIFFERENT


def content_of(names: Sequence[bytes], sizes: NDArray[np.int64], place: Callable[[int], Place]) -> str:
    """Of images that have a name (or none, if ``names`` is empty) and a place each; ``sizes [N]`` in bytes.

    The folder that all names begin with is no part of them.
    """
    digest = hashlib.blake2b(digest_size=16)
    names = [name.removeprefix(b"./") for name in names]
    start = len(common_folder(names))
    digest.update(b"\0".join([name[start:] for name in names]))
    digest.update(np.ascontiguousarray(sizes, dtype="<i8").tobytes())
    chosen = drawn(len(sizes))
    with ThreadPoolExecutor(THREADS) as pool:
        for piece in pool.map(lambda i: pieces_at(*place(i), int(sizes[i])), chosen):
            digest.update(piece)
    return VERSION + digest.hexdigest()


def content_of_files(files: Sequence[Path], what: str) -> str:
    """Of stores by their own bytes. ``what``: which part of them holds the images."""
    digest = hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=16)
    sizes = [os.stat(file).st_size for file in files]
    each = max(1, SAMPLES // len(files))
    tasks = [(os.fsencode(file), size, each) for file, size in zip(files, sizes, strict=True)]
    with ThreadPoolExecutor(THREADS) as pool:
        for size, piece in zip(sizes, pool.map(lambda task: pieces_of(*task), tasks), strict=True):
            digest.update(f"/{size}/".encode() + piece)
    return VERSION + digest.hexdigest()


def common_folder(names: Sequence[bytes]) -> bytes:
    """What all names begin with, up to a slash."""
    if not names:
        return b""
    first, last = min(names), max(names)
    alike = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(b"/", 0, alike) + 1]


def drawn(n: int) -> list[int]:
    """At most SAMPLES of ``n`` images, the same ones always and everywhere."""
    if n <= SAMPLES:
        return list(range(n))
    return sorted({_number(str(k)) % n for k in range(SAMPLES)})


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def pieces_at(path: bytes, offset: int, size: int) -> bytes:
    """A digest of the start, the middle and the end of an image."""
    return _digest_of(
        path, [(offset + at, min(PIECE, size)) for at in (0, max(0, size - PIECE) // 2, max(0, size - PIECE))]
    )


def pieces_of(path: bytes, size: int, number: int) -> bytes:
    """A digest of the start, the end and ``number`` pieces of a file."""
    last = max(0, size - PIECE)
    inner = [_number(f"{size} {k}") % (last + 1) for k in range(number)]
    return _digest_of(path, [(at, PIECE) for at in (0, *inner, last)])


def _digest_of(path: bytes, pieces: Iterable[tuple[int, int]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
        try:
            for offset, size in pieces:
                digest.update(os.pread(descriptor, size, offset))
        finally:
            os.close(descriptor)
    except OSError as error:  # whoever reads it says so
        digest.update(type(error).__name__.encode())
    return digest.digest()


def sizes_of(paths: Sequence[bytes]) -> NDArray[np.int64]:
    """``[N]`` sizes in bytes, MISSING where there is no file."""
    started = time.perf_counter()
    sizes = _sizes(paths[:PLACES])
    if len(paths) <= PLACES:
        return np.array(sizes, dtype=np.int64)
    if (time.perf_counter() - started) / PLACES < SLOW:
        return np.array(sizes + _sizes(paths[PLACES:]), dtype=np.int64)
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(_sizes, [paths[at : at + PLACES] for at in range(PLACES, len(paths), PLACES)]):
            sizes += part
    return np.array(sizes, dtype=np.int64)


def _sizes(paths: Iterable[bytes]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(os.stat(path).st_size)
        except OSError:
            sizes.append(MISSING)
    return sizes


def names_in(arrays: Any) -> list[bytes]:
    """All names of ``packed`` arrays."""
    text, ends = np.ascontiguousarray(arrays["name_bytes"]).tobytes(), arrays["name_ends"].tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def place_of(files: Sequence[Path]) -> str:
    """Where some files are: the file, or the folder they share."""
    return str(files[0]) if len(files) == 1 else os.path.commonpath(files)
