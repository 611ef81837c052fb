"""The members of a tar file: names, places and sizes, read from its headers alone.

Formats: old Unix (v7), POSIX ustar, GNU (long names) and pax. A file nobody has looked at decides nothing here: a header
that describes the next one is at most MAX_EXTENSION bytes, at most MAX_EXTENSIONS of them stand before a member, no
size is believed that does not fit into the file, and what is read is a loop, not a recursion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of a long name or of pax records; a path has at most 4096
MAX_EXTENSIONS = 64  # headers before one member: usually none, at most a name, a link name and pax records
OCTAL = re.compile(rb"\s*([0-7]*)[\s\0]*")
RECORD = re.compile(rb"(\d{1,10}) ([^=]+)=")


class TarDamage(Exception):
    """The file ends too early, or something in it is no header. Members before that are sound."""


class Member(NamedTuple):
    """One entry. ``kind``: ``file``, ``folder``, ``sparse``, or ``other`` (links, devices, pipes)."""

    name: bytes
    kind: str
    offset: int  # of its content in the tar
    size: int  # bytes of content


def members(descriptor: int, file_size: int) -> Iterator[Member]:
    """All members in order. Raises TarDamage where the sound part of the file ends."""
    offset, extensions = 0, 0
    common: dict[bytes, bytes] = {}  # pax records for all that follow
    own: dict[bytes, bytes] = {}  # for the next member
    if not file_size:
        raise TarDamage("empty file")
    while offset < file_size:
        header = os.pread(descriptor, BLOCK, offset)
        if not any(header):
            return  # the end, as every complete file marks it
        check(header, offset)
        kind, size = header[156:157], number_in(header[124:136], offset)
        offset += BLOCK
        if kind in b"LKxXg" and kind:
            extensions += 1
            if extensions > MAX_EXTENSIONS:
                raise TarDamage(f"more than {MAX_EXTENSIONS} headers describe the member at byte {offset}")
            if size > min(MAX_EXTENSION, file_size - offset):
                raise TarDamage(f"a header of {size} bytes at byte {offset}")
            data = os.pread(descriptor, size, offset)
            if kind == b"L":
                own.setdefault(b"path", data.rstrip(b"\0"))
            elif kind == b"g":
                common |= records_in(data, offset)
            elif kind != b"K":
                own |= records_in(data, offset)
            offset += padded(size)
            continue
        member = described(header, kind, common | own, offset, size)
        has_content = member.kind in ("file", "sparse") or kind not in b"123456"
        if has_content and member.size > file_size - offset:
            raise TarDamage(f"a member of {member.size} bytes does not fit into the shard")
        yield member
        offset += padded(member.size) if has_content else 0
        own, extensions = {}, 0


def described(header: bytes, kind: bytes, records: dict[bytes, bytes], offset: int, size: int) -> Member:
    """The member of ``header``, with what the headers before it say."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    name = records.get(b"path", name)
    if b"size" in records:
        if not re.fullmatch(rb"\d{1,19}", records[b"size"]):
            raise TarDamage(f"the size of the member at byte {offset} is not a number")
        size = int(records[b"size"])
    if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in records):
        return Member(name, "sparse", offset, size)
    if kind == b"5" or (kind == b"\0" and name.endswith(b"/")):
        return Member(name, "folder", offset, size)
    return Member(name, "file" if kind in (b"0", b"\0") else "other", offset, size)


def check(header: bytes, offset: int) -> None:
    """Raise TarDamage unless this is a header: its checksum (of unsigned or, on old systems, signed bytes) is right."""
    if len(header) < BLOCK:
        raise TarDamage(f"truncated header at byte {offset}")
    stated = number_in(header[148:156], offset)
    rest = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(rest)
    if stated not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest)):
        raise TarDamage(f"no member header at byte {offset}")


def number_in(field: bytes, offset: int) -> int:
    """A number in octal digits, or, above 8 GB, in binary. Raises TarDamage."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = OCTAL.fullmatch(field)
    if match is None:
        raise TarDamage(f"no member header at byte {offset}")
    return int(match.group(1) or b"0", 8)


def records_in(data: bytes, offset: int) -> dict[bytes, bytes]:
    """The pax records ``length key=value`` in ``data``. Raises TarDamage."""
    found: dict[bytes, bytes] = {}
    place = 0
    while place < len(data) and data[place]:
        match = RECORD.match(data, place)
        length = int(match.group(1)) if match else 0
        if match is None or place + length > len(data) or place + length <= match.end():
            raise TarDamage(f"damaged pax records at byte {offset}")
        found[match.group(2)] = data[match.end() : place + length - 1]
        place += length
    return found


def padded(size: int) -> int:
    """Bytes that ``size`` bytes take: whole blocks."""
    return -(-size // BLOCK) * BLOCK
