from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.system.json_file import JsonError, Maybe, as_form, parse, parse_object, read_object, read_value

FORM: dict[Any, Any] = {
    "name": str,
    "rows": int,
    "share": float,
    "whole": Maybe(bool),
    "files": {str: {"size": int}},
    "list": [{"x": int}],
    "any": Maybe(dict),
}
GOOD: dict[str, Any] = {"name": "a", "rows": 3, "share": 0.5, "files": {"b": {"size": 1}}, "list": [{"x": 0}]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_what_has_the_form_passes_and_more_may_be_there() -> None:
    as_form(GOOD, FORM)
    as_form({**GOOD, "whole": None, "any": {"a": 1}, "more": [1, {}], "share": 2}, FORM)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rows": 1.0}, "rows: 1.0, not a whole number from 0 up"),
        ({"rows": True}, "rows: true, not a whole number from 0 up"),
        ({"rows": -1}, "rows: -1, not a whole number from 0 up"),
        ({"rows": "3"}, 'rows: "3", not a whole number from 0 up'),
        ({"rows": 10**4000}, "rows: a number beyond 2**63, not a whole number from 0 up"),
        ({"rows": float("inf")}, "rows: Infinity, not a whole number from 0 up"),
        ({"share": float("nan")}, "share: NaN, not a finite number"),
        ({"share": 10**400}, "share: a number beyond 2**63, not a finite number"),
        ({"whole": 1}, "whole: 1, not true or false"),
        ({"files": []}, "files: a list, not a table"),
        ({"files": {"b\n": {}}}, 'no files["b\\n"].size'),
        ({"list": [{"x": 0}, {"x": None}]}, "list[1].x: null, not a whole number from 0 up"),
        ({"list": {}}, "list: a table, not a list"),
        ({"name": None}, "name: null, not a text"),
    ],
)
def test_what_has_not_is_named_with_its_place(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(JsonError) as caught:
        as_form({**GOOD, **change}, FORM)
    assert str(caught.value) == problem


@pytest.mark.parametrize("name", GOOD)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(JsonError, match=f"no {name}"):
        as_form({k: v for k, v in GOOD.items() if k != name}, FORM)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b"{} {}",
        b"\xef\xbb\xbf{}x",
        b"nul",
        b'"\x00"',
    ],
)
def test_what_is_no_json_is_one_line(data: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        parse(data)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_table_or_one_line(data: bytes) -> None:
    try:
        value = parse_object(data)
        as_form(value, FORM)
    except JsonError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "long").write_text('"' + "x" * 100 + '"')
    with pytest.raises(JsonError, match="not a file"):
        read_value(tmp_path / "pipe")
    with pytest.raises(JsonError, match="a list, not a table"):
        read_object(tmp_path / "list")
    with pytest.raises(JsonError, match="more than 50 bytes"):
        read_value(tmp_path / "long", most=50)
    with pytest.raises(FileNotFoundError):
        read_value(tmp_path / "none")


def test_nothing_else_reads_json() -> None:
    """One reader of files, one of lines: what one of them learns, all have learnt."""
    package = Path(__file__).parents[2] / "dinov3"
    found = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if "json.load" in p.read_text()}
    own = {"system/json_file.py", "system/rows.py"}
    messages = {"data/bad_samples.py", "runs/sinks/wandb_process.py", "runs/new_folder.py"}  # lines of our own; a copy
    assert found == own | messages | {"weights/tensor_file.py"}  # a header that was written a moment before
