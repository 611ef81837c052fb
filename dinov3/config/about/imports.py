"""Which files of the project a file's code can come to, by what they import."""

from __future__ import annotations

import ast
from functools import cache
from typing import NamedTuple


class Imports(NamedTuple):
    modules: frozenset[str]  # and what may be one: ``a.b`` and ``a.b.c`` of ``from a.b import c``
    names: frozenset[str]  # what is imported by name, and the classes that are defined


def reached(texts: dict[str, str], name: str) -> dict[str, str]:
    """Of ``texts`` (file name -> Python text) those that know ``name``, and all that they import, also indirectly."""
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in texts}
    todo = [file for file, text in texts.items() if name in imports_of(text).names]
    found: set[str] = set()
    while todo:
        if (file := todo.pop()) not in found:
            found.add(file)
            todo += [modules[module] for module in imports_of(texts[file]).modules if module in modules]
    return {file: text for file, text in texts.items() if file in found}


@cache
def imports_of(text: str) -> Imports:
    """What a file imports, anywhere in it."""
    modules, names = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
    return Imports(frozenset(modules), frozenset(names))
