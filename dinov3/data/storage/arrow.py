"""Images in Arrow columns, laid out as Hugging Face does: ``{bytes, path}``, or plain bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov3.data.errors import BadImage, DataError
from dinov3.data.storage.extras import need

MOST_NAMES = 20  # that an error lists
LABEL = "label"  # the column of classes when none is named


def column_of(names: Sequence[str], wanted: str, option: str, path: Path) -> str:
    """The one of ``names`` that is ``wanted``, whatever its case and the spaces around it. Raises DataError."""
    alike = [name for name in names if plain(name) == plain(wanted)]
    if names.count(wanted) > 1:
        raise DataError(
            f"{path}: {names.count(wanted)} columns are called {wanted}: keep one, or name another: {option}=NAME"
        )
    if wanted in names:
        return wanted
    if len(alike) != 1:
        there = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
        raise DataError(f"{path}: there is no column {wanted}; there is {there}: say {option}=NAME")
    return alike[0]


def plain(name: str) -> str:
    """A name as it is compared."""
    return name.strip().casefold()


def optional_column_of(names: Sequence[str], wanted: str | None, option: str, path: Path) -> str | None:
    """As ``column_of``; None stands for LABEL, if there is such a column."""
    if wanted is None:
        alike = [name for name in names if plain(name) == LABEL]
        return (
            column_of(names, LABEL if LABEL in names else alike[0], option, path)
            if len(alike) == 1 or LABEL in names
            else None
        )
    return column_of(names, wanted, option, path)


def image_leaf(schema: Any, image: str, path: Path) -> str:
    """The name of the column of bytes: ``image`` itself, or its field ``bytes``. Raises DataError."""
    types = need("pyarrow").types
    kind = schema.field(column_of(schema.names, image, "image", path)).type
    if _holds_bytes(types, kind):
        return image
    if types.is_struct(kind) and "bytes" in [f.name for f in kind] and _holds_bytes(types, kind.field("bytes").type):
        return f"{image}.bytes"
    raise DataError(f"{path}: column {image} holds {kind}, not the bytes of image files")


def _holds_bytes(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def bytes_of(scalar: Any) -> bytes:
    """The image in a value of a column of bytes or of ``{bytes, path}``."""
    value = scalar.as_py()
    if isinstance(value, dict):
        if value["bytes"] is None and value.get("path"):
            raise BadImage(f"only the path {value['path']} is stored, not the image: save it with the images embedded")
        value = value["bytes"]
    if value is None:
        raise BadImage("there is no image")
    data: bytes = value
    return data
