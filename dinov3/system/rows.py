"""JSON lines: one object a line, read and appended so that half a line never survives."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from dinov3.system.files import cut_to_whole_lines, naming, open_to_append, write_whole

Row = dict[str, Any]


def rows_of(path: Path) -> Iterator[Row]:
    """Every whole row of a file, none when there is no file; what a crash, or a disk's fault, left of a line is passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut short, not JSON, not UTF-8
            continue
        if isinstance(row, dict):
            yield row


def read_rows(path: Path) -> list[Row]:
    """``rows_of`` as a list."""
    return list(rows_of(path))


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a row is one that can be counted with or drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class RowWriter:
    """Adds rows at the end of a file, each on a line of its own, whatever the last one who wrote there has left.

    A write that fails (a full disk) raises OSError; the half line it may have left is gone before the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = open_to_append(path)
        self._torn = False

    def write(self, row: Row) -> None:
        """One row, handed to the system on return. Raises OSError."""
        if self._torn:
            cut_to_whole_lines(self._handle)
        self._torn = True
        data = (json.dumps(row) + "\n").encode()
        with naming(self._path):
            while data:
                data = data[os.write(self._handle, data) :]
        self._torn = False

    def close(self) -> None:
        """A second time does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def append_row(path: Path, row: Row) -> None:
    """Add one row at the end. Raises OSError."""
    writer = RowWriter(path)
    try:
        writer.write(row)
    finally:
        writer.close()


def keep_rows(path: Path, wanted: Callable[[Row], bool]) -> None:
    """Write a file anew with the rows that are ``wanted``; one that holds nothing else is left as it is."""
    kept = [row for row in rows_of(path) if wanted(row)]
    text = "".join(json.dumps(row) + "\n" for row in kept).encode()
    if not path.is_file() or path.read_bytes() != text:
        write_whole(path, text)
