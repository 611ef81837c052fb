"""Lists of what a dataset contains, kept between runs, so that a million files are listed once.

A list is a folder with one ``.npy`` file an array, opened as memory maps: workers share its pages. It is valid while
the modification times and sizes of what it was made from are unchanged. It lies in ``$XDG_CACHE_HOME/dinov3`` or
``~/.cache/dinov3`` and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

VERSION = 2  # of the facts; a list of another version is made again
Arrays = Mapping[str, NDArray[Any]]


def cache_root() -> Path:
    """Where lists are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dinov3"


def stamp(path: str | Path) -> list[int]:
    """What changes when a folder gains or loses an entry, or a file is written."""
    status = os.stat(path)
    return [status.st_mtime_ns, status.st_size]


def load(kind: str, key: str) -> tuple[Arrays, dict[str, Any], Path] | None:
    """(arrays, facts, folder) of the list kept for ``key``; None when there is none or it is out of date."""
    pointer = _pointer(kind, key)
    try:
        entry = json.loads(pointer.read_text())
        if entry["version"] != VERSION or entry["key"] != key:
            return None
        if any(stamp(path) != was for path, was in entry["stamps"].items()):
            return None
        folder = pointer.parent / Path(entry["folder"]).name
        arrays = open_arrays(folder)
        if sorted(arrays) != entry["arrays"]:
            raise ValueError(f"{folder} has {sorted(arrays)}, not {entry['arrays']}")
        return arrays, entry["facts"], folder
    except FileNotFoundError:
        return None  # nothing kept, or something listed is gone: list again
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: unusable, listing again (%s)", pointer, error)
        return None


def save(kind: str, key: str, arrays: Arrays, facts: dict[str, Any], stamped: Iterable[str]) -> Path | None:
    """Keep a list; its folder, or None where nothing can be written. ``stamped``: the paths it was made from."""
    pointer = _pointer(kind, key)
    try:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{pointer.stem}-", dir=pointer.parent))
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        entry = {
            "version": VERSION,
            "key": key,
            "facts": facts,
            "folder": folder.name,
            "arrays": sorted(arrays),
            "stamps": {path: stamp(path) for path in stamped},
        }
        draft = folder / "entry.json"
        draft.write_text(json.dumps(entry))
        before = _folder_of(pointer)
        os.replace(draft, pointer)
    except OSError as error:
        log.warning("%s: the list of images cannot be kept (%s); it is made again every time", pointer.parent, error)
        return None
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return folder


def open_arrays(folder: Path) -> Arrays:
    """The arrays of a kept list as read-only memory maps."""
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}


def _pointer(kind: str, key: str) -> Path:
    return cache_root() / kind / f"{hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()}.json"


def _folder_of(pointer: Path) -> Path | None:
    try:
        return pointer.parent / Path(json.loads(pointer.read_text())["folder"]).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
