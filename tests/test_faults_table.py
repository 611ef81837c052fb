"""docs/faults.md: every row names tests that exist, and no fault is without one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "faults.md"
FIGURES = {"E8", "E9"}  # measured, not tested
WANTED = {"A": 13, "B": 12, "C": 10, "D": 14, "E": 10, "F": 4, "G": 11}


def rows() -> dict[str, list[str]]:
    """Id -> cells."""
    cells = [line.strip("|").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines()]
    found = [[cell.strip() for cell in row] for row in cells if re.fullmatch(r" ?[A-G]\d+", row[0])]
    assert len({row[0] for row in found}) == len(found), "an id stands there once"
    return {row[0]: row for row in found}


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_has_a_row_of_four_cells() -> None:
    found = rows()
    assert set(found) == {f"{kind}{number}" for kind, most in WANTED.items() for number in range(1, most + 1)}
    assert {len(row) for row in found.values()} == {4}


def test_every_test_that_is_named_is_there() -> None:
    missing = []
    for fault, row in rows().items():
        named = re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", " ".join(row[2:]))
        assert fault in FIGURES or re.search(r"`[\w/]+\.py::test_\w+`", row[2]), fault
        for file, test in named:
            path = TESTS / file
            if not path.is_file() or (test and test not in names_in(path)):
                missing.append(f"{fault}: {file}::{test}")
    assert missing == []
