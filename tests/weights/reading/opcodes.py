"""Pickles made by hand: any name, call and state, whether such a class exists here or not."""

from __future__ import annotations

import struct
from typing import Any

from dinov3.weights.reading.pickle_records import PERSISTENT, Name, Record


def pickled(value: Any, *, protocol: int = 4, objects: bool = False) -> bytes:
    """A whole pickle of plain values, Names and Records; ``objects`` makes records as objects, not as calls."""
    return bytes([0x80, protocol]) + encoded(value, objects) + b"."


def encoded(value: Any, objects: bool = False) -> bytes:
    if isinstance(value, Record):
        return _record(value, objects)
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(encoded(v, objects) for v in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(encoded(v, objects) for v in value) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(encoded(k, objects) + encoded(v, objects) for k, v in value.items()) + b"u"
    return _plain(value)


def _record(record: Record, objects: bool) -> bytes:
    if record.kind == PERSISTENT:
        return encoded(record.args[0], objects) + b"Q"
    body = encoded(record.kind, objects) + encoded(record.args, objects) + (b"\x81" if objects else b"R")
    return body if record.state is None else body + encoded(record.state, objects) + b"b"


def _plain(value: Any) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    assert isinstance(value, str | bytes), type(value)
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return (b"X" if isinstance(value, str) else b"B") + struct.pack("<I", len(raw)) + raw
