"""Any folder of images, searched through all its sub-folders. No metadata files are needed.

Images in sub-folders have a class: the sub-folder of the root they are in, numbered in sorted order. The list is kept
(index_cache.py) and made again when a folder has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinov3.data.decode import MAX_BYTES
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.storage.index_cache import Index, Listing, Stamp, stamp_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable

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
class Walk:
    """What a walk through a folder found. Paths of images are relative to it."""

    images: list[bytes] = field(default_factory=list)
    folders: dict[bytes, Stamp] = field(default_factory=dict)
    other_files: int = 0
    broken_links: int = 0


class ImageFolder(Listed):
    """Images under ``root`` in the order of their paths. Raises DataError when there are none."""

    def __init__(self, root: Path, *, with_labels: bool = True) -> None:
        self.root = root.absolute()
        self.with_labels = with_labels
        check_folder(self.root)
        self._index = Index.open("folders", str(self.root.resolve()), lambda: listing_of(self.root))
        self.classes: list[str] = self._index.facts["classes"] if with_labels else []

    def __len__(self) -> int:
        return len(self._index.arrays["name_ends"])

    def path(self, index: int) -> bytes:
        """The file's path."""
        return os.path.join(os.fsencode(self.root), name_at(self._index.arrays, index))

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return read_file(self.path(index))

    def label(self, index: int) -> int | None:
        """The number of its class, None for an image directly in the root."""
        return super().label(index) if self.with_labels else None

    def name(self, index: int) -> str:
        """The file's path, printable."""
        return printable(self.path(index))

    def version(self) -> str:
        """A hash of the list, the classes and the images' places, sizes and times of writing."""
        return f"{self._index.version(map(self.path, range(len(self))))}-{'with' if self.with_labels else 'no'}-labels"


def read_file(path: bytes) -> bytes:
    """What is in the file. Raises OSError, and BadImage for devices, pipes and files that are too large."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # before it is opened: a pipe would wait for ever, a device never end
        raise BadImage("is not a file")
    if status.st_size > MAX_BYTES:
        raise BadImage(f"{status.st_size} bytes, more than {MAX_BYTES}")
    with open(path, "rb") as file:
        return file.read()


def check_folder(root: Path) -> None:
    """Raise DataError unless ``root`` is a folder that can be listed."""
    if not root.exists():
        raise DataError(f"{root}: there is no such folder")
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; a dataset is a folder of images or tar shards")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"{root}: cannot be listed; check its permissions")


def listing_of(root: Path) -> Listing:
    """The images under ``root``. Raises DataError when there are none."""
    found = walk(os.fsencode(root))
    others = f"{found.other_files} other files, {found.broken_links} broken links"
    if not found.images:
        kinds = " ".join(suffix.decode() for suffix in SUFFIXES)
        raise DataError(f"{root}: contains no images ({others}); images end in {kinds}")
    log.info("%s: %d images (%s)", root, len(found.images), others)
    heads = [name.split(b"/", 1)[0] if b"/" in name else b"" for name in found.images]
    classes = sorted(set(heads) - {b""})
    number = {name: i for i, name in enumerate(classes)} | {b"": -1}
    arrays = packed(found.images) | {"labels": np.array([number[head] for head in heads], dtype=np.int32)}
    facts = {
        "classes": [printable(name) for name in classes],
        "fingerprint": hashlib.blake2b(b"\0".join(found.images), digest_size=16).hexdigest(),
    }
    return Listing(arrays, facts, {os.fsdecode(folder): was for folder, was in found.folders.items()})


def walk(root: bytes) -> Walk:
    """Everything under ``root``. Links are followed, each folder once; hidden files and folders are passed over."""
    found, seen, waiting = Walk(), set(), [root]
    while waiting:
        folder = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back up, or a second link to the same folder
            continue
        seen.add((status.st_dev, status.st_ino))
        found.folders[folder] = stamp_of(status)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except PermissionError:
            raise DataError(f"{printable(folder)}: cannot be listed; check its permissions") from None
        for entry in entries:
            _sort_in(entry, root, found, waiting)
    found.images.sort()
    return found


def _sort_in(entry: os.DirEntry[bytes], root: bytes, found: Walk, waiting: list[bytes]) -> None:
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        is_folder = is_file = False
    if entry.name.startswith(b"."):
        found.other_files += is_file
    elif is_folder:
        waiting.append(entry.path)
    elif not is_file:
        found.broken_links += entry.is_symlink()
    elif entry.name.lower().endswith(SUFFIXES):
        found.images.append(entry.path[len(root) :].lstrip(b"/"))
    else:
        found.other_files += 1
