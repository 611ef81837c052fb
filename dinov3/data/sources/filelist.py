"""Images named in a file: ``FileList:path=LIST[:root=FOLDER][:column=path][:label=label]``.

The list is text with a path a line, and a class after a tab if there is one; or ``.csv``, ``.tsv`` (both with a header)
or ``.parquet``, with a column of paths and perhaps one of classes. Paths are relative to ``root``, without it to the
list's folder. Classes are whole numbers, or names, which are numbered in sorted order.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from dinov3.data.errors import DataError
from dinov3.data.sources.imagefolder import check_folder, read_file
from dinov3.data.sources.options import Options, local_path
from dinov3.data.storage.arrow import column_of, optional_column_of
from dinov3.data.storage.extras import need
from dinov3.data.storage.index_cache import Index, Listing, stamp
from dinov3.data.storage.labels import numbered
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable

NAME = "FileList"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
NOT_LOCAL = re.compile(rb"^(?:[A-Za-z][A-Za-z0-9+.-]*://|(?:pipe|file|https?|s3|gs|hf):)", re.MULTILINE)
LEAVES_ROOT = re.compile(rb"^(?:/|(?:[^\n]*/)?\.\.(?:/|$))", re.MULTILINE)
LOOKED_FOR = 100  # paths that are looked up when the list is opened

log = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Where paths and classes are in a table. None: ``label``, if there is such a column."""

    path: str
    label: str | None


class Rows(NamedTuple):
    """What a list holds."""

    names: list[bytes]
    labels: Sequence[object] | None


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
        self._index = Index.open("lists", key, lambda: listing_of(self.path, columns, confined=root is not None))
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

    def version(self) -> str:
        """A hash of the list, the classes and the images' places, sizes and times of writing."""
        return self._index.version(map(self.file, range(len(self))))


def listing_of(path: Path, columns: Columns, *, confined: bool) -> Listing:
    """What the list at ``path`` holds. ``confined``: no path may be absolute or contain ``..``."""
    stamps = {str(path): stamp(path)}
    try:
        rows = rows_of(path, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not rows.names:
        raise DataError(f"{path}: names no images")
    joined = b"\n".join(rows.names)
    if b"\0" in joined:
        raise DataError(f"{path}: has zero bytes: save it as UTF-8 text")
    if match := NOT_LOCAL.search(joined):
        raise DataError(
            f"{_entry(path, joined, match)}: only local paths are read; copy the data to this machine first"
        )
    if confined and (match := LEAVES_ROOT.search(joined)):
        raise DataError(f"{_entry(path, joined, match)}: leads out of root=; leave root= out to allow it")
    log.info("%s: %d images", path, len(rows.names))
    arrays = packed(rows.names) | {"labels": numbered(rows.labels or [""] * len(rows.names))}
    return Listing(arrays, {"fingerprint": hashlib.blake2b(joined, digest_size=16).hexdigest()}, stamps)


def _entry(path: Path, joined: bytes, match: re.Match[bytes]) -> str:
    number = 1 + joined.count(b"\n", 0, match.start())
    name = joined[match.start() :].partition(b"\n")[0]
    return f"{path}: image {number}: {printable(name)}"


def rows_of(path: Path, columns: Columns) -> Rows:
    """The paths and classes in a list of any kind."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _rows_of_parquet(path, columns)
    if suffix in DELIMITERS:
        return _rows_of_table(path, columns, DELIMITERS[suffix])
    return _rows_of_text(path)


def _rows_of_text(path: Path) -> Rows:
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    parts = [line.partition(b"\t") for line in lines if line]
    if wrong := next((i for i, (name, _, label) in enumerate(parts, 1) if not name or b"\t" in label), None):
        raise DataError(f"{path}: image {wrong}: a line is a path, or a path, a tab and a class")
    return Rows([name for name, _, _ in parts], [_text(label) for _, _, label in parts])


def _text(label: bytes) -> str:
    return label.decode("utf-8", "surrogateescape").strip()


def _rows_of_table(path: Path, columns: Columns, delimiter: str) -> Rows:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            reader = csv.reader(file, delimiter=delimiter)
            header = next(reader, [])
            place = header.index(column_of(header, columns.path, "column", path))
            label = optional_column_of(header, columns.label, "label", path)
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if short := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(f"{path}: {delimiter.join(short)[:80]}: has {len(short)} values, the header {len(header)}")
    names = [os.fsencode(name) for name in map(itemgetter(place), rows)]
    return Rows(names, None if label is None else list(map(itemgetter(header.index(label)), rows)))


def _rows_of_parquet(path: Path, columns: Columns) -> Rows:
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    try:
        header = parquet.read_schema(path).names
        place = column_of(header, columns.path, "column", path)
        label = optional_column_of(header, columns.label, "label", path)
        table = parquet.read_table(path, columns=[place, *([label] if label else [])], use_threads=False)
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
    names = table[place].to_pylist()
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: column {place} does not hold paths; if it holds images, use Parquet:root={path}")
    return Rows([os.fsencode(name) for name in names], None if label is None else table[label].to_pylist())
