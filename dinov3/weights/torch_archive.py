"""The zip files that ``torch.save`` writes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

CHUNK = 1 << 20  # bytes
# What damage at any place makes zipfile raise.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, OverflowError, RuntimeError, ValueError),
)


class DamagedArchive(Exception):
    """The bytes of a file are not those that were written; the message does not name the file."""


def check_archive(path: Path) -> None:
    """Raise DamagedArchive when a record is not what its checksum was made of. Costs 0.4 s a GB.

    ``torch.load`` compares no checksum: a flipped byte becomes another weight. A file that is no zip (torch before 1.6)
    and records without a checksum (``torch.serialization.set_crc32_options``) pass.
    """
    name = "list of records"
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                name = record.filename
                with archive.open(record) as content:
                    while record.CRC and content.read(CHUNK):
                        pass
    except UNREADABLE as error:
        raise DamagedArchive(f"damaged: {name!r} in it is not as it was written: copy or download it again") from error
