"""Rows that lie in consecutive segments: files, row groups, batches, datasets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def place(ends: NDArray[np.integer[Any]], index: int) -> tuple[int, int]:
    """(segment, row in it) of the row ``index``; ``ends [S]``: how many rows there are up to the end of each segment."""
    segment = int(np.searchsorted(ends, index, side="right"))
    return segment, index - (int(ends[segment - 1]) if segment else 0)
