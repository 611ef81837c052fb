"""The zip files that ``torch.save`` writes: their records, each checked against the file's size and its own checksum."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

CHUNK = 1 << 24  # bytes read, and summed up, at a time
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field
# What damage at any place makes zipfile raise.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, OverflowError, RuntimeError, ValueError),
)


class DamagedArchive(Exception):
    """The bytes of a file are not those that were written; the message does not name the file."""


@dataclass(frozen=True)
class _Place:
    start: int
    size: int
    checksum: int


class Archive:
    """The records of a zip file that is open for reading.

    Only plain ones, as ``torch.save`` writes them: no compression, no record twice, and together no larger than the
    file, so that reading all of it takes no more memory than the file has bytes. Raises DamagedArchive.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
            names = [info.filename for info in infos]
            if any(name.partition("/")[2] == "constants.pkl" for name in names):
                raise DamagedArchive("a TorchScript program, not weights: save its state_dict() with torch.save")
            if len(set(names)) < len(names):
                raise DamagedArchive("two records of one name in it")
            if sum(info.file_size for info in infos) > size:
                raise DamagedArchive("its records claim more bytes than the file has: it is not one of torch.save")
            self._places = {info.filename: self._place(info, size) for info in infos}
        except UNREADABLE as error:
            raise _damaged("list of records") from error

    def _place(self, info: zipfile.ZipInfo, size: int) -> _Place:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise DamagedArchive("its records are compressed or encrypted: unpack it and save it again with torch.save")
        self._file.seek(info.header_offset)
        signature, name, extra = LOCAL_HEADER.unpack(self._file.read(LOCAL_HEADER.size))
        start = info.header_offset + LOCAL_HEADER.size + name + extra
        if signature != b"PK\x03\x04" or start + info.file_size > size:
            raise _damaged(info.filename)
        return _Place(start, info.file_size, info.CRC)

    def find(self, ending: str) -> str | None:
        """The one record ``FOLDER/ending``, whatever the folder is called."""
        found = [name for name in self._places if name.partition("/")[2] == ending]
        return found[0] if len(found) == 1 else None

    def size(self, name: str) -> int:
        """Bytes of a record; -1 when there is none of this name."""
        return self._places[name].size if name in self._places else -1

    def read(self, name: str) -> Tensor:
        """The bytes of a record [size] uint8, compared with its checksum where it has one (zero stands for none)."""
        place = self._places[name]
        content = torch.empty(place.size, dtype=torch.uint8, device="cpu")  # also where a trainer builds on meta
        if read_into(self._file, place.start, content, summed=place.checksum != 0) != place.checksum:
            raise _damaged(name)
        return content


def read_into(file: BinaryIO, start: int, content: Tensor, *, summed: bool = False) -> int:
    """Fill ``content`` [n] uint8 with what lies at ``start``; its CRC-32, or 0. DamagedArchive when the file ends early."""
    view, checksum, at = memoryview(content.numpy().data), 0, 0
    file.seek(start)
    while at < len(view):
        part = view[at : at + CHUNK]
        count = file.readinto(part)  # type: ignore[attr-defined]
        if not count:
            raise DamagedArchive("it ends early: copy or download it again")
        if summed:
            checksum = zlib.crc32(part[:count], checksum)
        at += count
    return checksum


def _damaged(name: str) -> DamagedArchive:
    return DamagedArchive(f"damaged: {ascii(name)[:120]} in it is not as it was written: copy or download it again")
