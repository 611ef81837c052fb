"""Images in LMDB: ``LMDB:root=FOLDER|FILE[:prefix=TEXT][:labels=FILE]``.

Every value is an encoded image, in the order of the keys. ``prefix`` leaves out keys that begin otherwise; keys like
``__len__`` are always left out. ``labels`` is a text file with a key, a tab and a class on each line.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options, local_path
from dinov3.data.storage.extras import need
from dinov3.data.storage.index_cache import Index, Listing, Stamp, stamp
from dinov3.data.storage.labels import numbered
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable

NAME = "LMDB"
_environments: dict[str, tuple[Stamp, Any]] = {}  # a process may open one only once, whoever needs it

log = logging.getLogger(__name__)


def open_source(options: Options) -> LMDB:
    """``LMDB:root=FOLDER|FILE[:prefix=TEXT][:labels=FILE]``."""
    root, prefix, labels = options.path("root"), options.string("prefix", ""), options.string("labels", "")
    options.finish()
    return LMDB(root, os.fsencode(prefix), local_path(labels) if labels else None)


class LMDB(Listed):
    """The images of an environment in the order of their keys. Raises DataError when there are none."""

    def __init__(self, root: Path, prefix: bytes = b"", labels: Path | None = None) -> None:
        root = root.absolute()
        file = root / "data.mdb" if root.is_dir() else root
        if not file.is_file():
            raise DataError(f"{file}: there is no such file; an LMDB is a folder with data.mdb, or one file")
        self.file = file.resolve()
        key = "\n".join(map(str, (self.file, prefix, labels and labels.absolute())))
        self._index = Index.open("lmdbs", key, lambda: listing_of(self.file, prefix, labels))

    def __len__(self) -> int:
        return len(self._index.arrays["name_ends"])

    def read(self, index: int) -> bytes:
        """The value."""
        try:
            with environment(self.file).begin() as transaction:
                value: bytes | None = transaction.get(name_at(self._index.arrays, index))
        except need("lmdb").Error as error:
            raise BadImage(str(error)) from error
        if value is None:
            raise BadImage("the key is gone")
        return value

    def name(self, index: int) -> str:
        """File and key."""
        return f"{self.file}/{printable(name_at(self._index.arrays, index))}"


def environment(file: Path) -> Any:
    """The environment in ``file`` (a resolved path), opened once a process, again when the file has changed.

    No lock file and no reader table, so any number of processes and read-only disks will do, and a forked child may use
    what its parent opened. No read-ahead: images are asked for in random order.
    """
    key, now = str(file), stamp(file)
    if key in _environments and _environments[key][0] != now:
        _environments.pop(key)[1].close()
    if key not in _environments:
        opened = need("lmdb").open(key, subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
        _environments[key] = now, opened
    return _environments[key][1]


def listing_of(file: Path, prefix: bytes, labels: Path | None) -> Listing:
    """Keys and classes. Raises DataError."""
    lmdb = need("lmdb")
    stamps = {str(path): stamp(path) for path in (file, labels) if path is not None and path.is_file()}
    try:
        with environment(file).begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise DataError(f"{file}: is not an LMDB file that can be read: {error}") from None
    names = [key for key in keys if key.startswith(prefix) and not (key.startswith(b"__") and key.endswith(b"__"))]
    if not names:
        raise DataError(
            f"{file}: contains no images ({len(keys)} keys, of which none begins with {printable(prefix)!r})"
        )
    log.info("%s: %d images, %d other keys", file, len(names), len(keys) - len(names))
    given = labels_in(labels) if labels is not None else {}
    if given and not given.keys() & set(names):
        raise DataError(f"{labels}: names none of the keys of {file}, such as {printable(names[0])}")
    arrays = packed(names) | {"labels": numbered([given.get(name) for name in names])}
    return Listing(arrays, {"fingerprint": hashlib.blake2b(b"\0".join(names), digest_size=16).hexdigest()}, stamps)


def labels_in(path: Path) -> dict[bytes, bytes]:
    """Key -> class of a text file of lines ``key<TAB>class``."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if wrong := next((line for line in lines if line.count(b"\t") != 1), None):
        raise DataError(f"{path}: {printable(wrong)[:80]}: a line is a key, a tab and a class")
    return {key: label for key, _, label in (line.partition(b"\t") for line in lines)}
