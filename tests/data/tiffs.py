"""TIFFs of kinds that Pillow reads and does not write."""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray


def tiff(values: NDArray[Any], photometric: int = 1, **tags: int | str) -> bytes:
    """An uncompressed TIFF of ``values [H, W]`` or ``[H, W, C]``. ``tags``: ``t338=2`` is an extra sample marked as alpha."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    extra, start = b"", 8 + len(data)
    entries: list[tuple[int, int, int, bytes]] = []

    def add(tag: int, type_: int, form: str, *numbers: int) -> None:
        nonlocal extra
        packed = struct.pack(f"<{len(numbers)}{form}", *numbers)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", start + len(extra)), extra + packed
        entries.append((tag, type_, len(numbers), packed.ljust(4, b"\0")))

    for tag, number in ((256, width), (257, height), (259, 1), (262, photometric), (277, samples), (278, height)):
        add(tag, 3, "H", number)
    add(258, 3, "H", *[8 * values.dtype.itemsize] * samples)
    add(339, 3, "H", *[kind] * samples)
    add(273, 4, "I", 8)
    add(279, 4, "I", len(data))
    for name, value in tags.items():
        if isinstance(value, str):
            add(int(name[1:]), 2, "B", *value.encode() + b"\0")
        else:
            add(int(name[1:]), 3, "H", value)
    entries.sort()
    body = b"".join(struct.pack("<HHI", tag, type_, n) + packed for tag, type_, n, packed in entries)
    return (
        b"II*\0"
        + struct.pack("<I", start + len(extra))
        + data
        + extra
        + struct.pack("<H", len(entries))
        + body
        + bytes(4)
    )
