"""JSON that somebody else may have written, damaged or forged: read in one place, its form checked before it is used.

``read_object`` answers "is it JSON at all?", ``as_form`` "has it the form its reader relies on?". A form is written as an
example of the content: ``{"name": str, "rows": int, "files": {str: {"size": int}}}``. What it does not name may be there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 30  # beyond it nothing of ours, nor of COCO, is plain JSON
MOST_NUMBER = 2**63 - 1  # of a form's int: what a size, a count or an index can be
SHOWN = 60  # characters of a wrong value in a message


class JsonError(ValueError):
    """Not JSON, or not of the form that is needed. The text is one line, without the name of the file."""


class Maybe:
    """In a form: this, or null, or absent."""

    def __init__(self, form: Any) -> None:
        self.form = form


def parse(data: bytes | str) -> Any:
    """The value of a JSON text, of any type. Raises JsonError, whatever the text is."""
    try:
        return json.loads(data)
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except UnicodeDecodeError:
        raise JsonError("not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error}") from None
    except ValueError:  # Python's own words speak of a setting of Python
        raise JsonError("not JSON: a number of more than 4,300 digits") from None


def parse_object(data: bytes | str) -> dict[str, Any]:
    """The same, of a table. Raises JsonError."""
    value = parse(data)
    if not isinstance(value, dict):
        raise JsonError(f"{_kind(value)}, not a table")
    return value


def read_value(path: Path, most: int = MOST_BYTES) -> Any:
    """What a file of at most ``most`` bytes holds. Raises OSError, JsonError."""
    if path.exists() and not path.is_file():
        raise JsonError("not a file")  # a pipe would be waited for
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise JsonError(f"more than {most} bytes")
    return parse(data)


def read_object(path: Path, form: Any = None, most: int = MOST_BYTES) -> dict[str, Any]:
    """The table a file holds, checked against ``form`` when there is one. Raises OSError, JsonError."""
    value = read_value(path, most)
    if not isinstance(value, dict):
        raise JsonError(f"{_kind(value)}, not a table")
    as_form(value, form or {})
    return value


def as_form(value: Any, form: Any, where: str = "") -> None:
    """Raise JsonError, naming the place, unless ``value`` has the form.

    ``int``: a whole number from 0 to 2**63 - 1; ``float``: any finite number; ``str``, ``bool``; ``dict``, ``list``: of
    anything; ``[form]``: a list of such; ``{"key": form}``: a table that has these keys; ``{str: form}``: any keys.
    """
    if isinstance(form, Maybe):
        if value is not None:
            as_form(value, form.form, where)
    elif isinstance(form, dict):
        _table(value, form, where)
    elif isinstance(form, list):
        _must(isinstance(value, list), value, "a list", where)
        for number, item in enumerate(value):
            as_form(item, form[0], f"{where}[{number}]")
    else:
        right, name = _PLAIN[form]
        _must(right(value), value, name, where)


def _table(value: Any, form: dict[Any, Any], where: str) -> None:
    _must(isinstance(value, dict), value, "a table", where)
    for key, part in form.items():
        if key is str:
            for name, item in value.items():
                as_form(item, part, f"{where}[{_clipped(name)}]")
        elif key in value:
            as_form(value[key], part, f"{where}.{key}" if where else key)
        elif not isinstance(part, Maybe):
            raise JsonError(f"no {f'{where}.' if where else ''}{key}")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MOST_NUMBER if isinstance(value, int) else math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_NUMBER


_PLAIN: dict[type, tuple[Any, str]] = {
    int: (_is_count, "a whole number from 0 up"),
    float: (_is_number, "a finite number"),
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    dict: (lambda value: isinstance(value, dict), "a table"),
    list: (lambda value: isinstance(value, list), "a list"),
}


def _must(right: bool, value: Any, wanted: str, where: str) -> None:
    if not right:
        raise JsonError(f"{where + ': ' if where else ''}{_kind(value)}, not {wanted}")


def _kind(value: Any) -> str:
    """A value for a message."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > MOST_NUMBER:  # Python refuses to write out very long ones
        return "a number beyond 2**63"
    return _clipped(value)


def _clipped(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
