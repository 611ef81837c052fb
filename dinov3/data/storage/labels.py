"""Classes as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError

NO_LABEL = -1
LARGEST = 2**31 - 1


def numbered(labels: Sequence[Any]) -> NDArray[np.int32]:
    """Labels as ``[N]`` int32: whole numbers stay, names are numbered in sorted order; none and negative ones are -1."""
    texts = [
        "" if label is None else label.decode("utf-8", "surrogateescape") if isinstance(label, bytes) else str(label)
        for label in labels
    ]
    distinct = set(texts) - {""}
    if all(text.removeprefix("-").isdecimal() for text in distinct):
        number = {text: max(int(text), NO_LABEL) for text in distinct}
        if (largest := max(number.values(), default=NO_LABEL)) > LARGEST:
            raise DataError(f"class {largest} is too large a number: number classes from 0")
    else:
        number = {text: i for i, text in enumerate(sorted(distinct))}
    number[""] = NO_LABEL
    return np.fromiter((number[text] for text in texts), dtype=np.int32, count=len(texts))
