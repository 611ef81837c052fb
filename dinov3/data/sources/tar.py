"""Images in tar shards, by WebDataset's convention: ``key.jpg`` and, if there is a class, ``key.cls`` with its number.

Shards are listed once; images are then read from their place in the file. Nothing is ever extracted, so links, devices
and paths that lead elsewhere do nothing; they are counted, as everything that is left out.

A member is an image by what follows its last dot: ``00001.v2.jpg`` and ``x12.5_y0.0.jpg`` are images. WebDataset ends a key
at the first dot, so that ``00001.seg.png`` is another field of the sample ``00001``: where a shard has ``00001.jpg`` too,
that is followed, and the others are left out.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinov3.config.shown import shown
from dinov3.data.decode import SUFFIXES
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.identity import content_of, names_in, place_of
from dinov3.data.storage.index_cache import Index, Listing, stamp
from dinov3.data.storage.labels import NO_LABEL, classes_of
from dinov3.data.storage.left_out import LeftOut, lines, suffix_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable
from dinov3.data.storage.shards import shards_of
from dinov3.data.storage.tar_headers import Member, TarDamage, members

NAME = "Tar"
MAX_MEMBER_BYTES = 64 * 2**20
MAX_CLASS_BYTES = 32
OPEN_SHARDS = 64  # files a process keeps open

log = logging.getLogger(__name__)


def open_source(options: Options) -> Tar:
    """``Tar:root=FOLDER`` or ``Tar:root=name-{0000..0041}.tar``; ``*`` and ``{a,b}`` work too."""
    text = options.string("root")
    options.finish()
    return Tar(shards_of(text, (".tar",)))


@dataclass
class Members:
    """The usable members of some shards."""

    names: list[bytes] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    damaged: dict[str, str] = field(default_factory=dict)  # shard -> what is wrong with it


@dataclass
class Shard:
    """What one shard holds. A stem is a member's path up to its last dot."""

    descriptor: int
    left_out: LeftOut
    images: dict[bytes, Member] = field(default_factory=dict)  # by stem
    labels: dict[bytes, int] = field(default_factory=dict)  # by stem


class Tar(Listed):
    """The images of ``shards``, in order. Raises DataError when there are none."""

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        key = "\n".join([*map(str, shards), str(SUFFIXES)])  # another Pillow reads other formats
        self._index = Index.open("tars", key, lambda: listing_of(shards))
        self.damaged: dict[str, str] = self._index.facts["damaged"]
        for shard, reason in self.damaged.items():
            log.warning("%s: %s", shown(shard), reason)
        self._files = Handles(OPEN_SHARDS, os.close)  # file descriptors

    def __len__(self) -> int:
        return len(self._index.arrays["offset"])

    def read(self, index: int) -> bytes:
        """The member's bytes."""
        size, offset = int(self._index.arrays["size"][index]), int(self._index.arrays["offset"][index])
        data = os.pread(self._descriptor(int(self._index.arrays["shard"][index])), size, offset)
        if len(data) < size:
            raise BadImage(f"the shard ends after {len(data)} of {size} bytes")
        return data

    def _descriptor(self, shard: int) -> int:
        return self._files.get(shard, lambda: os.open(self.shards[shard], os.O_RDONLY | os.O_CLOEXEC))

    def _content(self) -> str:
        arrays, shards = self._index.arrays, list(map(os.fsencode, self.shards))
        places = zip(arrays["shard"].tolist(), arrays["offset"].tolist(), strict=True)
        where = [(shards[shard], offset) for shard, offset in places]
        return content_of(names_in(arrays), arrays["size"], lambda i: where[i])

    def _place(self) -> str:
        return place_of(self.shards)

    def name(self, index: int) -> str:
        """Shard and member, as a path."""
        shard = self.shards[int(self._index.arrays["shard"][index])]
        return f"{shown(str(shard))}/{printable(name_at(self._index.arrays, index))}"


def listing_of(shards: list[Path]) -> Listing:
    """The images in ``shards``. Raises DataError when there are none."""
    found = Members()
    stamps = {str(shard): stamp(shard) for shard in shards}
    for number, shard in enumerate(shards):
        _list_shard(shard, number, found)
    others = lines(found.left_out)
    if found.damaged:
        others.append(f"{len(found.damaged)} of them {next(iter(found.damaged.values()))}")
    if not found.names:
        raise DataError(f"{shards[0]} and {len(shards) - 1} other shards: contain no images ({'; '.join(others)})")
    log.info("%d shards: %d images (%s)", len(shards), len(found.names), "; ".join(others) or "nothing left out")
    arrays = packed(found.names)
    for name in ("shard", "offset", "size", "labels"):
        arrays[name] = np.array(getattr(found, name), dtype=np.int64)
    digest = hashlib.blake2b(digest_size=16)
    for values in arrays.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    facts = {"left_out": dict(found.left_out), "damaged": found.damaged, "fingerprint": digest.hexdigest()}
    return Listing(arrays, facts, stamps)


def _list_shard(path: Path, number: int, found: Members) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    shard = Shard(descriptor, found.left_out)
    try:
        if os.pread(descriptor, 2, 0) == b"\x1f\x8b":
            raise DataError(f"{path}: is compressed, which allows no random access; unpack it with gunzip")
        for member in members(descriptor, os.fstat(descriptor).st_size):
            _sort_in(member, shard)
    except TarDamage as error:
        found.damaged[str(path)] = f"damaged, {len(shard.images)} images before the damage are used: {error}"
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    for stem, member in shard.images.items():
        key = key_of(stem)
        if key != stem and key in shard.images:
            found.left_out[
                "other images of a sample: a key ends at the first dot, and the key alone is an image too"
            ] += 1
            continue
        found.names.append(member.name)
        found.shard.append(number)
        found.offset.append(member.offset)
        found.size.append(member.size)
        found.labels.append(shard.labels.get(stem, shard.labels.get(key, NO_LABEL)))


def key_of(stem: bytes) -> bytes:
    """WebDataset's key: up to the first dot of the last part of the path."""
    folder, slash, file = stem.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]


def _sort_in(member: Member, shard: Shard) -> None:
    if member.kind == "folder":
        return
    parts = [part for part in member.name.split(b"/") if part not in (b"", b".")] or [b""]
    file = parts[-1]
    suffix = suffix_of(file)
    stem = b"/".join(parts)[: -len(suffix) or None]
    if member.kind == "other":
        shard.left_out["links and devices"] += 1
    elif member.kind == "sparse":
        shard.left_out["sparse members: pack them again without --sparse"] += 1
    elif member.name.startswith(b"/") or b".." in parts:
        shard.left_out["members with paths that lead elsewhere"] += 1
    elif file.startswith(b".") and file.lower() != suffix:
        shard.left_out["hidden files"] += 1
    elif parts[0].startswith(b"__") and key_of(parts[0]).endswith(b"__"):
        shard.left_out["members called __…__: they are about the shard"] += 1
    elif suffix == b".cls" and member.size <= MAX_CLASS_BYTES:
        _label_in(os.pread(shard.descriptor, member.size, member.offset), stem, shard)
    elif suffix not in SUFFIXES:
        shard.left_out.add_file(file)
    elif member.size > MAX_MEMBER_BYTES:
        shard.left_out[f"images above {MAX_MEMBER_BYTES // 2**20} MB"] += 1
    elif stem in shard.images:
        shard.left_out["second images of a key"] += 1
    else:
        shard.images[stem] = member


def _label_in(text: bytes, stem: bytes, shard: Shard) -> None:
    """Whole numbers in any spelling; empty and ``nan`` are no class."""
    try:
        numbers, names = classes_of([text])
    except DataError:
        numbers, names = np.zeros(1, dtype=np.int32), ["too large"]
    if names:
        shard.left_out["classes that are not numbers"] += 1
    elif numbers[0] > NO_LABEL:
        shard.labels.setdefault(stem, int(numbers[0]))
