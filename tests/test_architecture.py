"""The house rules of the structure, as tests: who may import whom, file, function and room sizes, no leftovers."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE, MAX_FUNCTION, MAX_ROOM = 400, 60, 3000

CORE = {"system", "contracts", "config", "distributed"}
FILES = CORE | {"models", "losses", "data", "runs", "weights"}
NUMERICS = FILES | {"engine", "features"}
ALLOWED: dict[str, set[str]] = {
    "system": set(),
    "contracts": set(),
    "config": {"system", "contracts"},
    "distributed": {"system", "contracts", "config"},
    "models": CORE,
    "losses": CORE,
    "data": CORE,
    "runs": CORE,
    "weights": CORE | {"models", "data", "runs"},
    "features": FILES | {"engine"},
    "engine": FILES,
    "survey": FILES | {"pictures"},
    "advice": FILES | {"survey"},
    "pictures": FILES | {"features"},
    "teachers": NUMERICS,
    "objectives": NUMERICS | {"teachers"},
    "dense": NUMERICS | {"pictures"},
    "eval": NUMERICS | {"pictures", "dense"},
    "finetune": NUMERICS | {"pictures"},
    # named by finetune's table of kinds, whose command it shares
    "segment": NUMERICS | {"pictures", "dense", "finetune"},
    "detect": NUMERICS | {"pictures", "dense", "finetune"},
    "depth": NUMERICS | {"pictures", "dense", "finetune"},
    # the metric before and after compression is that of the probes
    "compress": NUMERICS | {"eval", "finetune", "pictures"},
    "generate": NUMERICS | {"pictures"},
    "train": NUMERICS | {"teachers", "objectives", "eval", "pictures", "advice"},
    "launch": NUMERICS | {"teachers", "objectives", "train"},
    "plan": NUMERICS | {"objectives", "train"},
    "utility": {"models", "teachers"},
    "overview": FILES | {"features", "pictures"},
    "cli": NUMERICS
    | {"teachers", "objectives", "train", "launch", "eval", "pictures", "survey", "dense", "finetune", "compress"}
    | {"generate", "advice", "overview", "plan"},
}
SOURCES = sorted([*(ROOT / "dinov3").rglob("*.py"), *(ROOT / "utility").rglob("*.py")])


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "utility":
        return parts[0]
    return "cli" if parts[1] == "__main__" else parts[1]  # the same command


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
    foreign = imported_rooms(parsed(path)) - {room}
    assert foreign <= ALLOWED[room], f"{room} may not import {sorted(foreign - ALLOWED[room])}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    assert path.read_text().count("\n") <= MAX_FILE
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= MAX_FUNCTION, f"{node.name} has {size} lines"


@pytest.mark.parametrize("room", sorted({p.parent for p in SOURCES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_stays_small(room: Path) -> None:
    lines = sum(path.read_text().count("\n") for path in room.glob("*.py"))
    assert lines < MAX_ROOM, f"{room.name} has {lines} lines: move what has a subject of its own to a room of its own"


def test_no_room_for_leftovers() -> None:
    assert not [p for p in SOURCES if p.stem in {"utils", "helpers", "misc", "common"}]


DOORS = sorted({path.parent for path in SOURCES if "sinks" not in path.parts})


@pytest.mark.parametrize("room", DOORS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_has_a_sign_on_its_door(room: Path) -> None:
    """What lives here, which file first, who may import it."""
    sign = ast.get_docstring(parsed(room / "__init__.py"))
    assert sign is not None
    assert len(sign.split()) >= 12 or room.name in ("dinov3", "utility")


def functions_called(tree: ast.AST) -> set[tuple[str, str]]:
    """Name and first argument of every call of a plain name."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.args]
    return {(call.func.id, ast.unparse(call.args[0])) for call in calls if isinstance(call.func, ast.Name)}


# What is asked of others: the platform, foreign libraries, arguments of any type.
FOREIGN = {"os", "args", "picture", "images", "module", "dataset", "value", "image", "torch", "tensor"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nobody_asks_our_own_objects_what_they_have(path: Path) -> None:
    asked = {who for name, who in functions_called(parsed(path)) if name == "hasattr"}
    assert asked <= FOREIGN, f"hasattr of {sorted(asked - FOREIGN)}: give it a type, or a null object"


# One for a worker process, one for an import that torchvision makes: neither holds anything of a run.
GLOBALS = {"survey.py": {"_here"}, "torchvision_compat.py": {"_stand_ins"}}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_holds_the_state_of_a_run(path: Path) -> None:
    names = {name for node in ast.walk(parsed(path)) if isinstance(node, ast.Global) for name in node.names}
    assert names <= GLOBALS.get(path.name, set())
