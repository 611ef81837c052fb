"""Lists of what a dataset contains, kept between runs, so that a million files are listed once.

A list is a folder with one ``.npy`` file an array, opened as memory maps: workers share its pages. It is valid while
the modification times and sizes of what it was made from are unchanged, and its own bytes are those that were written:
a power cut leaves files empty or full of zeros. It lies in ``$XDG_CACHE_HOME/dinov3`` or ``~/.cache/dinov3`` and may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.system.json_file import JsonError, read_object

log = logging.getLogger(__name__)

NOWHERE = "/dev/null"
VERSION = 5  # of arrays and facts; a list of another version is made again
Arrays = Mapping[str, NDArray[Any]]
Stamp = list[int]


class Listing(NamedTuple):
    """What was found in a dataset."""

    arrays: Arrays
    facts: dict[str, Any]  # as JSON
    stamps: dict[str, Stamp]  # of every path it was made from, taken before it was looked at


@dataclass
class Index:
    """A listing in use. Pickled it is small: the arrays stay in the folder they are kept in."""

    arrays: Arrays
    facts: dict[str, Any]
    folder: Path | None  # None: nothing could be written
    written: str  # a hash of the stamps

    @classmethod
    def open(cls, kind: str, key: str, make: Callable[[], Listing]) -> Index:
        """The kept index of ``key``, made first when there is none that is up to date.

        Of several processes on a machine that need it, one makes it and the others wait.
        """
        if kept := _load(kind, key, complain=False):
            return kept
        with _locked(_pointer(kind, key)):
            if kept := _load(kind, key, complain=True):
                return kept
            listing = make()
            return cls(listing.arrays, listing.facts, _save(kind, key, listing), _hash_of(listing.stamps))

    def version(self, files: Iterable[bytes] | None = None) -> str:
        """A hash of the list, and of place, size and time of writing of ``files``, or else of what the list was made from."""
        digest = hashlib.blake2b(self.written.encode() if files is None else b"", digest_size=16)
        digest.update(json.dumps(self.facts, sort_keys=True).encode())
        for name in sorted(self.arrays):
            digest.update(name.encode() + np.ascontiguousarray(self.arrays[name]).tobytes())
        for path in files or ():
            try:
                digest.update(path + f" {stamp(path)}\n".encode())
            except OSError:  # gone; whoever reads it says so
                digest.update(path + b" -\n")
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "arrays": self.arrays if self.folder is None else list(self.arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self.arrays = _open_arrays(self.folder, state["arrays"])


def cache_root() -> Path:
    """Where lists are kept. Without a home (a container, a batch system) a folder below NOWHERE, where nothing is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")  # unchanged where there is none; Path.home() raises
    return (Path(base) if base else Path(NOWHERE if home == "~" else home) / ".cache") / "dinov3"


def stamp(path: str | bytes | Path) -> Stamp:
    """What changes when a folder gains or loses an entry, or a file is written."""
    return stamp_of(os.stat(path))


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a path whose status is known."""
    return [status.st_mtime_ns, status.st_size]


def _hash_of(stamps: Mapping[str, Stamp]) -> str:
    return hashlib.blake2b(json.dumps(sorted(stamps.items())).encode(), digest_size=16).hexdigest()


def _load(kind: str, key: str, *, complain: bool) -> Index | None:
    """None when there is no list for ``key``, or it is out of date or damaged."""
    pointer = _pointer(kind, key)
    try:
        kept = read_object(pointer)
        if kept.get("version") in range(VERSION):  # of an earlier program
            return None
        entry = kept["entry"]
        if kept["digest"] != _digest(_text_of(entry).encode()):
            raise ValueError("its entry is not the one that was written")
        if entry["version"] != VERSION or entry["key"] != key:
            return None
        if any(stamp(path) != was for path, was in entry["stamps"].items()):
            return None
        folder = pointer.parent / Path(entry["folder"]).name
        for name, digest in entry["arrays"].items():
            array = folder / f"{name}.npy"
            if not array.exists() or digest != _digest(array.read_bytes()):
                raise ValueError(f"{array.name} is not what was written")
        return Index(_open_arrays(folder, entry["arrays"]), entry["facts"], folder, _hash_of(entry["stamps"]))
    except (FileNotFoundError, NotADirectoryError):
        return None  # nothing kept, or something listed is gone: list again
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if complain:
            log.warning("%s: damaged, listing again (%s)", pointer, error)
        return None


def _save(kind: str, key: str, listing: Listing) -> Path | None:
    """Keep a listing; its folder, or None where nothing can be written.

    Everything is on the disk before the entry that names it takes the place of the one before.
    """
    pointer = _pointer(kind, key)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{pointer.stem}-", dir=pointer.parent))
        digests = {}
        for name, values in listing.arrays.items():
            memory = io.BytesIO()
            np.save(memory, values, allow_pickle=False)
            digests[name] = _digest(memory.getbuffer())
            _write(folder / f"{name}.npy", memory.getbuffer())
        entry = {
            "version": VERSION,
            "key": key,
            "facts": listing.facts,
            "folder": folder.name,
            "arrays": digests,
            "stamps": listing.stamps,
        }
        draft = folder / "entry.json"
        _write(draft, json.dumps({"entry": entry, "digest": _digest(_text_of(entry).encode())}).encode())
        _flush_folder(folder)
        before = _folder_of(pointer)
        os.replace(draft, pointer)
        _flush_folder(pointer.parent)
    except OSError as error:
        log.warning("%s: the list of images cannot be kept (%s); it is made again every time", pointer.parent, error)
        return None
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return folder


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system that flushes no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _text_of(entry: object) -> str:
    return json.dumps(entry, sort_keys=True)


@contextlib.contextmanager
def _locked(pointer: Path) -> Iterator[None]:
    """One process of this machine at a time. Where no lock can be had there is none: two lists are then made."""
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(pointer.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_arrays(folder: Path, names: Iterable[str]) -> Arrays:
    """The arrays of a kept list as read-only memory maps."""
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}


def _pointer(kind: str, key: str) -> Path:
    return cache_root() / kind / f"{hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()}.json"


def _folder_of(pointer: Path) -> Path | None:
    try:
        return pointer.parent / Path(read_object(pointer, {"entry": {"folder": str}})["entry"]["folder"]).name
    except (OSError, JsonError):
        return None
