"""Classes as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError

NO_LABEL = -1
LARGEST = 2**31 - 1
LARGEST_FOLDER = 2**16 - 1  # folders called 20240131 are dates: a probe with twenty million classes helps nobody
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?")
MISSING = frozenset({"", "nan", "-nan", "+nan", "<na>"})  # what pandas and numpy write for no value
# What people write where a number is missing. Among names these may be classes: Namibia is NA, a tissue can be none.
MISSING_NUMBER = MISSING | {"none", "null", "na", "n/a", "nat", "-", "?"}


class Classes(NamedTuple):
    """The classes of a list of images."""

    numbers: NDArray[np.int32]  # [N], NO_LABEL where there is none
    names: list[str]  # of the classes 0, 1, …; none when the numbers were given


def classes_of(labels: Sequence[Any]) -> Classes:
    """Whole numbers in any spelling (``3``, ``3.0``, ``03``, ``3e0``) stay, names are numbered in sorted order.

    Empty, ``nan`` and negative ones are no class. Fractions are numbered in the order of their values, as names are.
    Raises DataError for numbers above LARGEST.
    """
    texts = [text_of(label) for label in labels]
    distinct = set(texts)
    values = {text: value for text in distinct if (value := number_in(text)) is not None}
    if distinct - values.keys() <= {text for text in distinct if text.lower() in MISSING_NUMBER}:
        if all(value == value.to_integral_value() for value in values.values()):
            place, names = {text: whole(value) for text, value in values.items()}, []
        else:
            ordered = {value: i for i, value in enumerate(sorted(set(values.values())))}
            place = {text: ordered[value] for text, value in values.items()}
            names = [str(value) for value in ordered]
    else:
        spelled = {text: text for text in distinct if text.lower() not in MISSING}
        spelled |= {text: str(int(v)) for text, v in values.items() if v == v.to_integral_value() and abs(v) <= LARGEST}
        names = sorted(set(spelled.values()))
        number = {name: i for i, name in enumerate(names)}
        place = {text: number[name] for text, name in spelled.items()}
    return Classes(np.array([place.get(text, NO_LABEL) for text in texts], dtype=np.int32), names)


def text_of(label: Any) -> str:
    """A label as a source has it (None, a number, text, bytes) as text."""
    if label is None:
        return ""
    if isinstance(label, bool | np.bool_):
        return str(int(label))
    return (label.decode("utf-8", "surrogateescape") if isinstance(label, bytes) else str(label)).strip()


def number_in(text: str) -> Decimal | None:
    """The number that ``text`` spells, exactly; None when it spells none."""
    if not NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def whole(value: Decimal) -> int:
    """A class: NO_LABEL for negative ones. Raises DataError for one that is too large."""
    if value > LARGEST:
        raise DataError(f"class {str(value)[:20]} is too large a number: number classes from 0")
    return max(int(value), NO_LABEL) if value > NO_LABEL else NO_LABEL


def folder_classes(folders: Iterable[bytes]) -> tuple[dict[bytes, int], list[bytes]]:
    """(class of each folder, names of the classes).

    The class is the number a folder is called by, when all are called by different ones of at most LARGEST_FOLDER (then
    there are no names), otherwise its place in sorted order.
    """
    ordered = sorted(folders)
    values = [number_in(name.decode("utf-8", "replace")) for name in ordered]
    numbers = [int(v) for v in values if v is not None and v == v.to_integral_value() and 0 <= v <= LARGEST_FOLDER]
    if len(set(numbers)) == len(ordered):
        return dict(zip(ordered, numbers, strict=True)), []
    return {name: i for i, name in enumerate(ordered)}, ordered
