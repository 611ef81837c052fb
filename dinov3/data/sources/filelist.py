"""Images named in a file: ``FileList:path=LIST[:root=FOLDER][:column=path][:label=label]``.

The list is text with a path a line, and a class after a tab or a space if there is one; or ``.csv``, ``.tsv`` (both with a
header), ``.jsonl`` or ``.parquet``, with a column of paths and perhaps one of classes (storage/lists.py). Paths are relative
to ``root``, without it to the list's folder; those of Windows may have backslashes. Classes are whole numbers, or names,
which are numbered in sorted order.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from dinov3.data.errors import DataError
from dinov3.data.sources.imagefolder import check_folder, read_file
from dinov3.data.sources.options import Options, local_path
from dinov3.data.storage.identity import content_of, names_in, sizes_of
from dinov3.data.storage.index_cache import Index, Listing, stamp
from dinov3.data.storage.labels import classes_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.lists import Columns, rows_of
from dinov3.data.storage.names import name_at, packed, printable

NAME = "FileList"
NOT_LOCAL = re.compile(rb"^(?:[A-Za-z][A-Za-z0-9+.-]*://|(?:pipe|file|https?|s3|gs|hf):)", re.MULTILINE)
LEAVES_ROOT = re.compile(rb"^(?:/|(?:[^\n]*/)?\.\.(?:/|$))", re.MULTILINE)
LOOKED_FOR = 100  # paths that are looked up when the list is opened

log = logging.getLogger(__name__)


def open_source(options: Options) -> FileList:
    """``FileList:path=LIST[:root=FOLDER][:column=path][:label=label]``."""
    path = options.path("path")
    root = options.string("root", "")
    columns = Columns(options.string("column", "path"), options.string("label", "") or None)
    options.finish()
    return FileList(path, local_path(root) if root else None, columns)


class FileList(Listed):
    """The images that ``path`` names, in its order. Raises DataError for a list that cannot be used.

    With a ``root`` no path may lead out of it; without one, absolute paths and ``..`` are allowed.
    """

    def __init__(self, path: Path, root: Path | None = None, columns: Columns | None = None) -> None:
        self.path = path.absolute()
        if not self.path.is_file():
            raise DataError(f"{self.path}: " + ("is not a file" if self.path.exists() else "there is no such list"))
        if root is not None:
            check_folder(root)
        self.root = (root or self.path.parent).absolute()
        columns = columns or Columns("path", None)
        key = "\n".join(map(str, (self.path, root and self.root, *columns)))
        self._index = Index.open(
            "lists", key, lambda: listing_of(self.path, columns, self.root, confined=root is not None)
        )
        self._refuse_missing()

    def _refuse_missing(self) -> None:
        step = max(1, len(self) // LOOKED_FOR)
        if not any(os.path.exists(self.file(i)) for i in range(0, len(self), step)):
            raise DataError(
                f"{self.path}: none of the paths looked for exists, not even {printable(self.file(0))}: "
                "paths are relative to root=, without it to the list's folder"
            )

    def __len__(self) -> int:
        return len(self._index.arrays["name_ends"])

    def file(self, index: int) -> bytes:
        """The image's path."""
        return os.path.join(os.fsencode(self.root), name_at(self._index.arrays, index))

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return read_file(self.file(index))

    def name(self, index: int) -> str:
        """The file's path, printable."""
        return printable(self.file(index))

    def _content(self) -> str:
        names, root = names_in(self._index.arrays), os.fsencode(self.root) + b"/"
        paths = [name if name[:1] == b"/" else root + name for name in names]
        return content_of(names, sizes_of(paths), lambda i: (paths[i], 0))

    def _place(self) -> str:
        return f"{self.path}, images in {self.root}"

    def version(self) -> str:
        """A hash of the list, the classes and the images' places, sizes and times of writing."""
        return self._index.version(map(self.file, range(len(self))))


def listing_of(path: Path, columns: Columns, root: Path, *, confined: bool) -> Listing:
    """What the list at ``path`` holds. ``confined``: no path may be absolute or contain ``..``."""
    stamps = {str(path): stamp(path)}
    try:
        names, labels = rows_of(path, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not names:
        raise DataError(f"{path}: names no images")
    names = with_slashes(names, os.fsencode(root))
    joined = b"\n".join(names)
    if b"\0" in joined:
        raise DataError(f"{path}: has zero bytes: save it as UTF-8 text")
    if match := NOT_LOCAL.search(joined):
        raise DataError(
            f"{_entry(path, joined, match)}: only local paths are read; copy the data to this machine first"
        )
    if confined and (match := LEAVES_ROOT.search(joined)):
        raise DataError(f"{_entry(path, joined, match)}: leads out of root=; leave root= out to allow it")
    log.info("%s: %d images", path, len(names))
    numbers, classes = classes_of(labels or [""] * len(names))
    facts = {"fingerprint": hashlib.blake2b(joined, digest_size=16).hexdigest(), "classes": classes}
    return Listing(packed(names) | {"labels": numbers}, facts, stamps)


def with_slashes(names: list[bytes], root: bytes) -> list[bytes]:
    """``names`` with slashes for backslashes, when the first that has some is only there in that form."""
    first = next((name for name in names if b"\\" in name), None)
    if first is None or os.path.lexists(os.path.join(root, first)):
        return names
    return [name.replace(b"\\", b"/") for name in names]


def _entry(path: Path, joined: bytes, match: re.Match[bytes]) -> str:
    number = 1 + joined.count(b"\n", 0, match.start())
    name = joined[match.start() :].partition(b"\n")[0]
    return f"{path}: image {number}: {printable(name)}"
