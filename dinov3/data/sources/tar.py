"""Images in tar shards, by WebDataset's convention: ``key.jpg`` and, if there is a class, ``key.cls`` with its number.

Shards are listed once; images are then read from their place in the file. Nothing is ever extracted, so links, devices
and paths that lead elsewhere do nothing; they are counted. Names end a key at the first dot of the file name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.imagefolder import SUFFIXES
from dinov3.data.sources.options import Options
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.index_cache import Index, Listing, stamp
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import name_at, packed, printable
from dinov3.data.storage.shards import shards_of

NAME = "Tar"
IMAGES = {suffix.decode() for suffix in SUFFIXES}
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
    ignored: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)  # shard -> what is wrong with it


class Tar(Listed):
    """The images of ``shards``, in order. Raises DataError when there are none."""

    def __init__(self, shards: list[Path]) -> None:
        self.shards = shards
        self._index = Index.open("tars", "\n".join(map(str, shards)), lambda: listing_of(shards))
        self.ignored: dict[str, int] = self._index.facts["ignored"]
        self.damaged: dict[str, str] = self._index.facts["damaged"]
        for shard, reason in self.damaged.items():
            log.warning("%s: %s", shard, reason)
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

    def name(self, index: int) -> str:
        """Shard and member, as a path."""
        return f"{self.shards[int(self._index.arrays['shard'][index])]}/{printable(name_at(self._index.arrays, index))}"


def listing_of(shards: list[Path]) -> Listing:
    """The images in ``shards``. Raises DataError when there are none."""
    members = Members()
    stamps = {str(shard): stamp(shard) for shard in shards}
    for number, shard in enumerate(shards):
        _list_shard(shard, number, members)
    ignored = ", ".join(f"{count} {what}" for what, count in members.ignored.items()) or "nothing ignored"
    if not members.names:
        raise DataError(f"{shards[0]} and {len(shards) - 1} other shards: contain no images ({ignored})")
    log.info("%d shards: %d images (%s)", len(shards), len(members.names), ignored)
    arrays = packed(members.names)
    for name in ("shard", "offset", "size", "labels"):
        arrays[name] = np.array(getattr(members, name), dtype=np.int64)
    digest = hashlib.blake2b(digest_size=16)
    for values in arrays.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    facts = {"ignored": dict(members.ignored), "damaged": members.damaged, "fingerprint": digest.hexdigest()}
    return Listing(arrays, facts, stamps)


def _list_shard(shard: Path, number: int, members: Members) -> None:
    try:
        with open(shard, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"{shard}: is compressed, which allows no random access; unpack it with gunzip")
            file.seek(0)
            _list_members(shard, number, file.fileno(), os.fstat(file.fileno()).st_size, members)
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror}") from None


def _list_members(shard: Path, number: int, descriptor: int, shard_size: int, members: Members) -> None:
    images: dict[str, tuple[bytes, int, int]] = {}
    labels: dict[str, int] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0 or tar.offset <= end or member.offset_data + member.size > shard_size:
                    raise tarfile.ReadError(f"a member of {member.size} bytes does not fit into the shard")
                end = tar.offset
                _sort_in(member, descriptor, images, labels, members.ignored)
            if any(os.pread(descriptor, tarfile.BLOCKSIZE, tar.offset)):
                raise tarfile.ReadError(f"no member header at byte {tar.offset}")
    except tarfile.TarError as error:
        members.damaged[str(shard)] = f"damaged, {len(images)} images before the damage are used: {error}"
        members.ignored["damaged shards"] += 1
    for key, (name, offset, size) in images.items():
        members.names.append(name)
        members.shard.append(number)
        members.offset.append(offset)
        members.size.append(size)
        members.labels.append(labels.get(key, -1))


def _sort_in(
    member: tarfile.TarInfo,
    descriptor: int,
    images: dict[str, tuple[bytes, int, int]],
    labels: dict[str, int],
    ignored: Counter[str],
) -> None:
    if member.isdir():
        return
    path = PurePosixPath(member.name)
    stem, _, suffix = path.name.partition(".")
    key, suffix = str(path.parent / stem), f".{suffix.lower()}"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        ignored["links and devices"] += 1
    elif path.is_absolute() or ".." in path.parts:
        ignored["members with paths that lead elsewhere"] += 1
    elif suffix == ".cls" and member.size <= MAX_CLASS_BYTES:
        text = os.pread(descriptor, member.size, member.offset_data).strip()
        if text.isdigit():
            labels.setdefault(key, int(text))
        else:
            ignored["classes that are not numbers"] += 1
    elif suffix not in IMAGES:
        ignored["other files"] += 1
    elif member.size > MAX_MEMBER_BYTES:
        ignored[f"images above {MAX_MEMBER_BYTES // 2**20} MB"] += 1
    elif key in images:
        ignored["second images of a key"] += 1
    else:
        name = member.name.encode("utf-8", "surrogateescape")
        images[key] = (name, member.offset_data, member.size)
