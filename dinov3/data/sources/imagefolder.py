"""Any folder of images, searched through all its sub-folders. No metadata files are needed.

Images in sub-folders have a class: the sub-folder of the root they are in, numbered in sorted order. The list is kept
(index_cache.py) and made again when a folder has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.decode import MAX_BYTES
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import index_cache
from dinov3.data.sources.names import name_at, packed, printable
from dinov3.data.sources.options import Options

NAME = "ImageFolder"
SUFFIXES = (b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".webp", b".tif", b".tiff", b".gif", b".bmp")

log = logging.getLogger(__name__)


def open_source(options: Options) -> ImageFolder:
    """``ImageFolder:root=PATH[:labels=folder|none]``."""
    root = options.path("root")
    labels = options.choice("labels", ("folder", "none"), "folder")
    options.finish()
    return ImageFolder(root, with_labels=labels == "folder")


@dataclass
class Listing:
    """What a walk through a folder found. Paths are relative to it."""

    images: list[bytes] = field(default_factory=list)
    folders: list[bytes] = field(default_factory=list)
    other_files: int = 0
    broken_links: int = 0


class ImageFolder:
    """Images under ``root`` in the order of their paths. Raises DataError when there are none."""

    def __init__(self, root: Path, *, with_labels: bool = True) -> None:
        self.root = root.absolute()
        self.with_labels = with_labels
        check_folder(self.root)
        key = str(self.root.resolve())
        kept = index_cache.load("folders", key)
        if kept is None:
            arrays, facts, folders = index_of(self.root)
            self._kept_in = index_cache.save("folders", key, arrays, facts, folders)
            kept = arrays, facts, Path()
        else:
            self._kept_in = kept[2]
        self._arrays: Mapping[str, NDArray[Any]] = kept[0]
        self._facts: dict[str, Any] = kept[1]
        self.classes: list[str] = self._facts["classes"] if with_labels else []

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._kept_in is not None:
            del state["_arrays"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._kept_in is not None:
            self._arrays = index_cache.open_arrays(self._kept_in)

    def __len__(self) -> int:
        return len(self._arrays["name_ends"])

    def path(self, index: int) -> bytes:
        """The file's path."""
        return os.path.join(os.fsencode(self.root), name_at(self._arrays, index))

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        with open(self.path(index), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise BadImage(f"{size} bytes, more than {MAX_BYTES}")
            return file.read()

    def label(self, index: int) -> int | None:
        """The number of its class, None for an image directly in the root."""
        label = int(self._arrays["labels"][index])
        return label if self.with_labels and label >= 0 else None

    def name(self, index: int) -> str:
        """The file's path, printable."""
        return printable(self.path(index))

    def fingerprint(self) -> str:
        """A hash of the relative paths."""
        return f"ImageFolder-{self._facts['fingerprint']}"


def check_folder(root: Path) -> None:
    """Raise DataError unless ``root`` is a folder that can be listed."""
    if not root.exists():
        raise DataError(f"{root}: there is no such folder")
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; a dataset is a folder of images or tar shards")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"{root}: cannot be listed; check its permissions")


def index_of(root: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any], Iterator[str]]:
    """(arrays, facts, folders walked) of the images under ``root``. Raises DataError when there are none."""
    listing = walk(os.fsencode(root))
    found = f"{listing.other_files} other files, {listing.broken_links} broken links"
    if not listing.images:
        kinds = " ".join(suffix.decode() for suffix in SUFFIXES)
        raise DataError(f"{root}: contains no images ({found}); images end in {kinds}")
    log.info("%s: %d images (%s)", root, len(listing.images), found)
    heads = [name.split(b"/", 1)[0] if b"/" in name else b"" for name in listing.images]
    classes = sorted(set(heads) - {b""})
    number = {name: i for i, name in enumerate(classes)} | {b"": -1}
    arrays = packed(listing.images) | {"labels": np.array([number[head] for head in heads], dtype=np.int32)}
    facts = {
        "classes": [printable(name) for name in classes],
        "fingerprint": hashlib.blake2b(b"\0".join(listing.images), digest_size=16).hexdigest(),
    }
    return arrays, facts, (os.fsdecode(folder) for folder in listing.folders)


def walk(root: bytes) -> Listing:
    """Everything under ``root``. Links are followed, each folder once; hidden files and folders are passed over."""
    listing, seen, waiting = Listing(), set(), [root]
    while waiting:
        folder = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back up, or a second link to the same folder
            continue
        seen.add((status.st_dev, status.st_ino))
        listing.folders.append(folder)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except PermissionError:
            raise DataError(f"{printable(folder)}: cannot be listed; check its permissions") from None
        for entry in entries:
            _sort_in(entry, root, listing, waiting)
    listing.images.sort()
    return listing


def _sort_in(entry: os.DirEntry[bytes], root: bytes, listing: Listing, waiting: list[bytes]) -> None:
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        is_folder = is_file = False
    if entry.name.startswith(b"."):
        listing.other_files += is_file
    elif is_folder:
        waiting.append(entry.path)
    elif not is_file:
        listing.broken_links += entry.is_symlink()
    elif entry.name.lower().endswith(SUFFIXES):
        listing.images.append(entry.path[len(root) :].lstrip(b"/"))
    else:
        listing.other_files += 1
