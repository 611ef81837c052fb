"""Classes as numbers."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError

if TYPE_CHECKING:
    from dinov3.data.sources.source import Source

logger = logging.getLogger(__name__)
NO_LABEL = -1
LARGEST = 2**31 - 1
LARGEST_FOLDER = 2**16 - 1  # folders called 20240131 are dates: a probe with twenty million classes helps nobody
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?")
COMMA = re.compile(r"[+-]?\d+,0{1,2}")  # 3,0: what pandas and spreadsheets write where the decimal point is a comma
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
    if COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif not NUMBER.fullmatch(text):
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


def names_in(source: object) -> list[str] | None:
    """What the classes of a source are called, by number; None when they are numbers."""
    found = getattr(source, "classes", None)
    return [os.fsdecode(name) for name in found] if isinstance(found, list) and found else None


def every_label(source: Source, where: str, need: str, indices: Sequence[int] | None = None) -> list[int]:
    """The class of every image (of those at ``indices``).

    DataError when some have none: how many, one of them by name, and ``need``: what wants them, and in what form.
    """
    chosen = range(len(source)) if indices is None else indices
    found = [(index, source.label(index)) for index in chosen]
    lacking = [index for index, label in found if label is None]
    if lacking and len(lacking) == len(found):
        raise DataError(f"{where}: {source.name(lacking[0])} has no label: {need}")
    if lacking:
        raise DataError(
            f"{where}: {len(lacking):,} of {len(found):,} images have no label, for example {source.name(lacking[0])}: "
            f"{need} for every image"
        )
    return [label for _, label in found if label is not None]


class Renumbered(NamedTuple):
    """Labels of a data set with the numbers that another gives its classes."""

    labels: NDArray[np.int64]  # [N], NO_LABEL where the other has no such class
    unknown: list[str]  # classes that occur and that the other does not have
    by_place: bool = False  # numbers were taken for places in the order of names


def renumbered(labels: NDArray[np.integer], names: list[str] | None, known: list[str] | None) -> Renumbered:
    """``labels [N]`` of classes called ``names`` with the numbers of those called ``known`` (None: numbers).

    By name, and a number by the name that spells it: the folders ``0`` to ``11`` beside one called ``other`` are names, in
    text order, and alone they are numbers. Numbers beside names of which none is a number are places in their order: they stay.
    """
    one_sided = (names is None) != (known is None)
    if names == known or (one_sided and not any(_number_called(name) for name in (names or known or []))):
        return Renumbered(labels.astype(np.int64), [], one_sided)
    place: dict[str, int] = {}
    if known is not None:
        bare = Counter(name.strip() for name in known)  # lists strip what folders keep
        place = {name.strip(): i for i, name in enumerate(known) if bare[name.strip()] == 1}
        place |= {number: i for i, name in enumerate(known) if (number := _number_called(name))}
        place |= {name: i for i, name in enumerate(known)}
    table, unknown = {}, []
    for label in np.unique(labels).tolist():
        name = str(label) if names is None else names[label]
        number = _number_called(name)
        found = place.get(name, place.get(number or name.strip())) if known is not None else (number and int(number))
        table[label] = NO_LABEL if found is None else int(found)
        if found is None:
            unknown.append(name)
    return Renumbered(np.array([table[label] for label in labels.tolist()], dtype=np.int64), unknown)


def matched_classes(
    where: str, labels: NDArray[np.integer], names: list[str] | None, known: list[str] | None
) -> NDArray[np.int64]:
    """Labels of the images ``where`` as ``renumbered`` gives them; a line when numbers and names were put together.

    Raises DataError for classes that ``known`` does not have.
    """
    matched = renumbered(labels, names, known)
    if matched.unknown:
        raise no_such_classes(where, matched.unknown)
    if matched.by_place:
        called = names or known or []
        said = ", ".join(f"{place} is {name!r}" for place, name in enumerate(called[:3])) + ", …" * (len(called) > 3)
        logger.warning("%s: one set has numbers, the other names: matched in the order of the names (%s)", where, said)
    return matched.labels


def no_such_classes(where: str, unknown: Sequence[object]) -> DataError:
    """The error of images of classes that nothing was trained on: none of them could ever be right."""
    return DataError(f"{where}: has classes {list(unknown[:5])}, which the training images do not have: leave them out")


def _number_called(name: str) -> str | None:
    value = number_in(name.strip())
    return (
        str(int(value)) if value is not None and 0 <= value <= LARGEST and value == value.to_integral_value() else None
    )
