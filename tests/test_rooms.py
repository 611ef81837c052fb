"""docs/architecture.md shows the rooms as they are."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def rooms() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "rooms.py"))


def test_the_picture_was_made_from_what_the_imports_say_now(rooms: dict[str, Any]) -> None:
    drawn = json.loads((DOCS / "rooms.json").read_text())
    assert rooms["graph"]() == drawn, "run `make docs-pictures`"


def test_every_room_is_in_the_picture_once_and_apart_from_the_others(rooms: dict[str, Any]) -> None:
    graph = rooms["graph"]()
    ways = rooms["chains"](rooms["without_long_ways"](graph))
    x, level = rooms["places"](ways, graph), rooms["level"]
    assert set(graph) <= set(x)
    places = [(level(room), x[room]) for room in graph]
    for i, (row, at) in enumerate(places):
        assert all(abs(at - other) > rooms["WIDTH"] for theirs, other in places[:i] if theirs == row)


def test_left_out_arrows_follow_from_those_that_are_drawn(rooms: dict[str, Any]) -> None:
    whole = {"a": ["b", "c"], "b": ["c"], "c": []}
    assert rooms["without_long_ways"](whole) == {"a": ["b"], "b": ["c"], "c": []}
    graph = rooms["graph"]()
    assert all(rooms["level"](a) > rooms["level"](b) for a, others in graph.items() for b in others)


def test_every_room_has_its_line_in_the_text(rooms: dict[str, Any]) -> None:
    text = (DOCS / "architecture.md").read_text()
    assert re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE) == sorted(rooms["graph"](), key=rooms["level"])
