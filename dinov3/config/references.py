"""``${block.key}``: the value of another key. Nothing else is looked up: no environment, no functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from dinov3.config.convert import as_text
from dinov3.config.errors import KeyProblem
from dinov3.config.names import nearest
from dinov3.config.yaml_file import Tree

REFERENCE = re.compile(r"\$\{([^{}]*)\}")
MAX_TEXT = 10_000  # characters; references to references could double a text at every step


def flat(values: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a tree, blocks included, with its value."""
    for name, value in values.items():
        yield prefix + name, value
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")


def resolve_references(tree: Tree) -> None:
    """Replace every reference in ``tree``, in place. Raises KeyProblem."""
    resolver = _Resolver(dict(flat(tree)))
    for name in tree:
        tree[name] = resolver.value(tree[name], name, (name,))


class _Resolver:
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.done: dict[str, Any] = {}

    def value(self, value: Any, key: str, path: tuple[str, ...]) -> Any:
        """``value`` of ``key`` without references. ``path``: the keys being resolved, to see a circle."""
        if isinstance(value, list):
            return [self.value(item, key, path) for item in value]
        if isinstance(value, dict):
            return {name: self.value(item, f"{key}.{name}", (f"{key}.{name}",)) for name, item in value.items()}
        if not isinstance(value, str) or "${" not in value:
            return value
        if match := REFERENCE.fullmatch(value):
            return self.target(match.group(1), key, path)
        text = REFERENCE.sub(lambda m: as_text(self.target(m.group(1), key, path)), value)
        if "${" in text:
            raise KeyProblem(key, f"{value} is not a reference, write ${{block.key}}")
        if len(text) > MAX_TEXT:
            raise KeyProblem(key, f"its references add up to more than {MAX_TEXT} characters")
        return text

    def target(self, name: str, key: str, path: tuple[str, ...]) -> Any:
        """The value that ``${name}`` in ``key`` stands for."""
        if ":" in name:
            raise KeyProblem(key, f"${{{name}}} is not allowed, a reference names another key")
        if name not in self.values or isinstance(self.values[name], dict):
            near = nearest(name)
            raise KeyProblem(key, f"${{{name}}} names no key" + (f" (did you mean {near[0]}?)" if near else ""))
        if name in path:
            raise KeyProblem(key, f"refers to itself: {' -> '.join((*path, name))}")
        if name not in self.done:
            self.done[name] = self.value(self.values[name], key, (*path, name))
        return self.done[name]
