"""Tables of what there is, one line an entry: ``"koleo.Koleo"``, a class and the file of the table's folder it is in."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any


def read_table(table: str, entries: Iterable[str]) -> list[Any]:
    """The class of each entry, in their order. ``table``: ``__name__`` of the module that has the table."""
    folder = table.rpartition(".")[0]
    pairs = (entry.split(".") for entry in entries)
    return [getattr(import_module(f"{folder}.{file}"), name) for file, name in pairs]
