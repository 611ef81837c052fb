"""Millions of names as two arrays: their bytes end to end, and where each ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.config.shown import shown


def packed(names: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Arrays ``name_bytes`` and ``name_ends``."""
    return {
        "name_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
        "name_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
    }


def name_at(arrays: Any, index: int) -> bytes:
    """The name number ``index``."""
    ends = arrays["name_ends"]
    start = int(ends[index - 1]) if index else 0
    return bytes(arrays["name_bytes"][start : int(ends[index])])


def printable(name: bytes) -> str:
    """``name`` for people: whatever is not text, or cannot be seen, is escaped."""
    return shown(name.decode("utf-8", "backslashreplace"))
