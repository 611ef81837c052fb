"""Any folder of images, searched through all its sub-folders. No metadata files are needed.

Images in sub-folders have a class: the sub-folder of the root they are in, or with ``class_of`` what a regular expression
finds in their path. Classes called by whole numbers have these numbers, others are numbered in sorted order. The list is kept (index_cache.py) and made again when a folder has changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinov3.data.decode import MAX_BYTES, SUFFIXES
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.sources.source import Joined, Source
from dinov3.data.storage.identity import content_of, names_in, sizes_of
from dinov3.data.storage.index_cache import Index, Listing, Stamp, stamp_of
from dinov3.data.storage.labels import NO_LABEL, folder_classes
from dinov3.data.storage.left_out import LeftOut, lines
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable
from dinov3.system.paths import expanded

NAME = "ImageFolder"
MOVE = "move the run elsewhere, or name the sub-folder that holds the images"
RUN_MARKS = {b"config.json", b"run.log"}  # what every run writes first

log = logging.getLogger(__name__)


def open_source(options: Options) -> ImageFolder:
    """``ImageFolder:root=PATH[:labels=folder|none][:class_of=REGEX]``."""
    root = options.path("root")
    labels = options.choice("labels", ("folder", "none"), "folder")
    class_of = options.string("class_of", "")
    options.finish()
    try:
        pattern = re.compile(os.fsencode(class_of)) if class_of else None
    except re.error as error:
        raise options.error(f"class_of={class_of} is not a regular expression: {error}") from None
    if pattern is not None and pattern.groups > 1:
        raise options.error(f"class_of={class_of} has {pattern.groups} groups: one is the class; the others are (?:…)")
    return ImageFolder(root, with_labels=labels == "folder", class_of=pattern)


@dataclass
class Walk:
    """What a walk through a folder found. Paths of images are relative to it."""

    images: list[bytes] = field(default_factory=list)
    folders: dict[bytes, Stamp] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


class ImageFolder(Listed):
    """Images under ``root`` in the order of their paths. Raises DataError when there are none."""

    def __init__(self, root: Path, *, with_labels: bool = True, class_of: re.Pattern[bytes] | None = None) -> None:
        self.root = root.absolute()
        self.with_labels = with_labels
        check_folder(self.root)
        key = f"{self.root.resolve()}\n{SUFFIXES}"  # another Pillow reads other formats
        if class_of is not None:
            key += f"\n{class_of.pattern!r}"
        self._index = Index.open("folders", key, lambda: listing_of(self.root, class_of))

    def __len__(self) -> int:
        return len(self._index.arrays["name_ends"])

    def path(self, index: int) -> bytes:
        """The file's path."""
        return os.path.join(os.fsencode(self.root), name_at(self._index.arrays, index))

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return read_file(self.path(index))

    def label(self, index: int) -> int | None:
        """The number of its class, None for an image that has none."""
        return super().label(index) if self.with_labels else None

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes; None when they are numbers."""
        return super().classes if self.with_labels else None

    def name(self, index: int) -> str:
        """The file's path, printable."""
        return printable(self.path(index))

    def _content(self) -> str:
        names, root = names_in(self._index.arrays), os.fsencode(self.root) + b"/"
        paths = [name if name[:1] == b"/" else root + name for name in names]
        return content_of(names, sizes_of(paths), lambda i: (paths[i], 0))

    def _place(self) -> str:
        return str(self.root)

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
        packed = root.suffix.lower() in (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
        advice = "unpack it" if packed else "a dataset is a folder of images or tar shards"
        raise DataError(f"{root}: is not a folder; {advice}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DataError(f"{root}: cannot be listed; check its permissions")


def listing_of(root: Path, class_of: re.Pattern[bytes] | None) -> Listing:
    """The images under ``root``. Raises DataError when there are none, or ``class_of`` finds a class in none."""
    found = walk(os.fsencode(root))
    others = "; ".join(lines(found.left_out)) or "no other files"
    if not found.images:
        kinds = " ".join(suffix.decode() for suffix in SUFFIXES)
        raise DataError(f"{root}: contains no images ({others}); images end in {kinds}")
    log.info("%s: %d images (%s)", root, len(found.images), others)
    heads = [name.split(b"/", 1)[0] if b"/" in name else b"" for name in found.images]
    if class_of is not None:
        heads = [_class_in(name, class_of) for name in found.images]
        if not any(heads):
            first = printable(found.images[0])
            raise DataError(f"{root}: class_of={printable(class_of.pattern)} is in no path, not even in {first}")
    number, names = folder_classes(set(heads) - {b""})
    arrays = packed(found.images) | {"labels": np.array([number.get(head, NO_LABEL) for head in heads], dtype=np.int32)}
    facts = {
        "classes": [printable(name) for name in names],
        "left_out": dict(found.left_out),
        "fingerprint": hashlib.blake2b(b"\0".join(found.images), digest_size=16).hexdigest(),
    }
    return Listing(arrays, facts, {os.fsdecode(folder): was for folder, was in found.folders.items()})


def _class_in(name: bytes, pattern: re.Pattern[bytes]) -> bytes:
    """The group of ``pattern``, all of it without one, where it is first found in ``name``; empty where it is not."""
    match = pattern.search(name)
    return b"" if match is None else match[pattern.groups] or b""


def walk(root: bytes) -> Walk:
    """Everything under ``root``. Links are followed, each folder once; hidden files and folders are passed over.

    So are the folders of runs: their pictures are no data.
    """
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
        if {entry.name for entry in entries} >= RUN_MARKS:
            if folder == root:
                raise DataError(f"{printable(root)}: is the folder of a run, whose pictures are no data: {MOVE}")
            found.left_out["folders of runs: their pictures are no data"] += 1
            continue
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
        found.left_out["hidden files" if is_file else "hidden folders"] += 1
    elif is_folder:
        waiting.append(entry.path)
    elif not is_file:
        found.left_out["broken links" if entry.is_symlink() else "pipes and devices"] += 1
    elif entry.name.lower().endswith(SUFFIXES):
        found.images.append(entry.path[len(root) :].lstrip(b"/"))
    else:
        found.left_out.add_file(entry.name)


def refuse_output_inside(source: Source, output: Path) -> None:
    """Raise DataError when ``output`` lies in a folder whose images ``source`` reads: what is drawn there would become
    training images, and no list of them would ever be equal to the one before."""
    for folder in image_folders(source):
        if output.resolve().is_relative_to(folder.root.resolve()):
            raise DataError(f"{output}: lies inside the images, {folder.root}: give a folder outside of it")


def refuse_inside(output: Path, data: str) -> None:
    """Raise DataError when ``data`` is a folder and ``output`` lies in it: it is searched for files."""
    folder = expanded(data)
    if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{output}: lies inside the data, {folder}: give a folder outside of it")


def image_folders(source: Source) -> list[ImageFolder]:
    """``source``, or those of its parts, that search a folder."""
    if isinstance(source, ImageFolder):
        return [source]
    return [folder for part in source.parts for folder in image_folders(part)] if isinstance(source, Joined) else []
