"""The house rules of the structure, as tests: who may import whom, file and function sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE, MAX_FUNCTION = 400, 60

CORE = {"contracts", "config", "distributed"}
NUMERICS = CORE | {"models", "losses", "data", "engine", "features"}
ALLOWED: dict[str, set[str]] = {
    "contracts": set(),
    "config": {"contracts"},
    "distributed": {"contracts", "config"},
    "models": CORE,
    "losses": CORE,
    "data": CORE,
    "engine": CORE | {"models", "losses", "data", "utility"},
    "teachers": NUMERICS | {"utility"},
    "features": NUMERICS,
    "objectives": NUMERICS | {"teachers"},
    "eval": NUMERICS,
    "finetune": NUMERICS,
    # the metric before and after compression is that of the probes
    "compress": NUMERICS | {"eval", "finetune"},
    "train": NUMERICS | {"teachers", "objectives", "eval"},
    "launch": NUMERICS | {"teachers", "objectives", "train"},
    "utility": {"contracts", "models"},
    "cli": NUMERICS | {"teachers", "objectives", "train", "launch", "eval", "utility"},
}
SOURCES = sorted([*(ROOT / "dinov3").rglob("*.py"), *(ROOT / "utility").rglob("*.py")])


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "utility" else parts[1]


def imported_rooms(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that the rule can be read"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    rooms = {n.split(".")[1] for n in names if n.startswith("dinov3.")}
    return (rooms & set(ALLOWED)) | ({"utility"} if any(n.split(".")[0] == "utility" for n in names) else set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    foreign = imported_rooms(ast.parse(path.read_text())) - {room}
    assert foreign <= ALLOWED[room], f"{room} may not import {sorted(foreign - ALLOWED[room])}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= MAX_FUNCTION, f"{node.name} has {size} lines"


def test_no_room_for_leftovers() -> None:
    assert not [p for p in SOURCES if p.stem in {"utils", "helpers", "misc", "common"}]
