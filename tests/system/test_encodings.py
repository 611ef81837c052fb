"""No text of a file depends on the language of the machine: a run called Größe is exported under LANG=C too."""

from __future__ import annotations

import ast
from pathlib import Path

import dinov3

PACKAGE = Path(dinov3.__file__).parent


def unnamed_encodings(source: str) -> list[int]:
    """Lines that read or write text without saying in which encoding."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in ("open", "fdopen", "read_text", "write_text"):
            continue
        if any(word.arg == "encoding" or word.arg is None for word in call.keywords):
            continue
        mode = next((word.value for word in call.keywords if word.arg == "mode"), None)
        places = 0 if isinstance(call.func, ast.Attribute) and name == "open" and not is_module(call.func) else 1
        if mode is None and name in ("open", "fdopen") and len(call.args) > places:
            mode = call.args[places]
        if name in ("open", "fdopen") and isinstance(call.func, ast.Attribute) and not might_be_text(call, mode):
            continue
        if not (isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" in mode.value):
            found.append(call.lineno)
    return found


def is_module(function: ast.Attribute) -> bool:
    """``os.fdopen``, not ``path.open``."""
    return isinstance(function.value, ast.Name) and function.value.id in ("os", "io", "tarfile", "Image", "av")


def might_be_text(call: ast.Call, mode: ast.expr | None) -> bool:
    """Image.open, tarfile.open, os.open and the like give no text."""
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value
    if (
        isinstance(owner, ast.Name)
        and owner.id in ("Image", "Index", "tarfile", "av", "os", "io")
        and call.func.attr == "open"
    ):
        return False
    if isinstance(owner, ast.Attribute) and owner.attr == "_av":
        return False
    return mode is None or isinstance(mode, ast.Constant)


def test_every_text_says_its_encoding() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in unnamed_encodings(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_search_finds_what_it_looks_for() -> None:
    text = "path.read_text()\npath.open('w')\nopen(p)\nos.fdopen(1, 'r')\npath.write_text(x)\npath.open(mode='a')\n"
    assert unnamed_encodings(text) == [1, 2, 3, 4, 5, 6]
    fine = (
        "path.read_text(encoding='utf-8')\npath.open('rb')\nopen(p, 'wb')\nos.open(p, 0)\nImage.open(p)\nopen(p, **k)\n"
    )
    assert unnamed_encodings(fine) == []
