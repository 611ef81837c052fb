"""Images in LMDB: ``LMDB:root=FOLDER|FILE[:prefix=TEXT][:labels=FILE]``.

Every value is an encoded image, in the order of the keys. ``prefix`` leaves out keys that begin otherwise; keys like
``__len__`` are always left out. ``labels`` is a text file with a key, a tab and a class on each line. The file is read
without the package ``lmdb``, and never mapped into memory (storage/lmdb_file.py).
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinov3.config.shown import shown
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options, local_path
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.identity import content_of, names_in
from dinov3.data.storage.index_cache import Index, Listing, stamp
from dinov3.data.storage.labels import classes_of
from dinov3.data.storage.left_out import LeftOut
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.lists import text_in
from dinov3.data.storage.lmdb_file import NOWHERE, LmdbDamage, LmdbFile
from dinov3.data.storage.names import name_at, packed, printable

NAME = "LMDB"

log = logging.getLogger(__name__)
# Beside __len__ and __keys__, what programs that write such stores call the number of entries and their list.
ABOUT = {b"num-samples", b"num_samples", b"length", b"len", b"keys", b"meta", b"metadata"}


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

        self._opened: Handles[LmdbFile] = Handles(1, _close)

    def __len__(self) -> int:
        return len(self._index.arrays["name_ends"])

    def read(self, index: int) -> bytes:
        """The value. When the file was changed since it was listed, it is looked for by its key."""
        now = stamp(self.file)
        try:
            opened = self._opened.get(tuple(now), lambda: _open(self.file))
            if now == self._index.facts["stamp"]:
                arrays = self._index.arrays
                return opened.read(int(arrays["offset"][index]), int(arrays["size"][index]))
            found = opened.find(name_at(self._index.arrays, index))
            if found is None or found[1] == NOWHERE:
                raise BadImage("the file was changed, the key is gone")
            return opened.read(*found[1:])
        except LmdbDamage as error:
            raise BadImage(str(error)) from error

    def _content(self) -> str:
        arrays, file = self._index.arrays, os.fsencode(self.file)
        return content_of(names_in(arrays), arrays["size"], lambda i: (file, int(arrays["offset"][i])))

    def _place(self) -> str:
        return str(self.file)

    def name(self, index: int) -> str:
        """File and key."""
        return f"{shown(str(self.file))}/{printable(name_at(self._index.arrays, index))}"


def _open(file: Path) -> LmdbFile:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return LmdbFile(descriptor)
    except LmdbDamage:
        os.close(descriptor)
        raise


def _close(opened: LmdbFile) -> None:
    os.close(opened.descriptor)


def listing_of(file: Path, prefix: bytes, labels: Path | None) -> Listing:
    """Keys, places and classes. Raises DataError."""
    stamps = {str(path): stamp(path) for path in (file, labels) if path is not None and path.is_file()}
    found = _images_in(file, prefix)
    names, left_out = found.names, found.left_out
    if not names:
        keys = sum(left_out.values())
        raise DataError(f"{file}: contains no images ({keys} keys, of which none begins with {printable(prefix)!r})")
    log.info("%s: %d images, %d other keys", file, len(names), sum(left_out.values()))
    given = labels_in(labels) if labels is not None else {}
    if given and not given.keys() & set(names):
        raise DataError(f"{labels}: names none of the keys of {file}, such as {printable(names[0])}")
    numbers, classes = classes_of([given.get(name) for name in names])
    facts = {
        "fingerprint": hashlib.blake2b(b"\0".join(names), digest_size=16).hexdigest(),
        "classes": classes,
        "left_out": dict(left_out),
        "stamp": stamps[str(file)],
    }
    offset, size = np.frombuffer(found.offsets, dtype=np.int64), np.frombuffer(found.sizes, dtype=np.int64)
    return Listing(packed(names) | {"labels": numbers, "offset": offset, "size": size}, facts, stamps)


@dataclass
class Values:
    """Those that are images."""

    names: list[bytes] = field(default_factory=list)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    left_out: LeftOut = field(default_factory=LeftOut)


def _images_in(file: Path, prefix: bytes) -> Values:
    found = Values()
    left_out = found.left_out
    try:
        opened = _open(file)
        try:
            for key, offset, size in opened.items():
                if offset == NOWHERE:
                    left_out["named databases, and keys with several values"] += 1
                elif (key[:2] == b"__" and key.endswith(b"__")) or key in ABOUT:
                    left_out["keys like __len__: they are about the store"] += 1
                elif not key.startswith(prefix):
                    left_out[f"keys that do not begin with {printable(prefix)}"] += 1
                else:
                    found.names.append(key)
                    found.offsets.append(offset)
                    found.sizes.append(size)
        finally:
            _close(opened)
    except LmdbDamage as error:
        raise DataError(f"{file}: is not an LMDB file that can be read: {error}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    return found


def labels_in(path: Path) -> dict[bytes, str]:
    """Key -> class of a text file of lines ``key<TAB>class``, or ``key class`` where there is no tab."""
    try:
        lines = [line for line in text_in(path).splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    pairs = [line.split("\t") if "\t" in line else line.rsplit(maxsplit=1) for line in lines]
    if wrong := next((line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2), None):
        raise DataError(f"{path}: {wrong[:80]}: a line is a key, a tab and a class")
    return {os.fsencode(key): label for key, label in pairs}
