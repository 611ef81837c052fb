"""``${block.key}``: the value of another key. Nothing else is looked up: no environment, no functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

from dinov3.config.errors import KeyProblem
from dinov3.config.yaml_file import Tree
from dinov3.system.errors import first_line

REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def flat(values: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a tree, blocks included, with its value."""
    for name, value in values.items():
        yield prefix + name, value
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")


def resolve_references(tree: Tree) -> None:
    """Replace every reference in ``tree``, in place. Raises KeyProblem.

    OmegaConf does the work; what it would also allow (resolvers such as ``oc.env``, references in references) is
    refused before it sees the tree. A tree without references is only copied: OmegaConf takes as long to import, and
    then to read one, as everything else that is done to a config.
    """
    values = dict(flat(tree))
    texts = [(key, text) for key, value in values.items() for text in _texts(value)]
    for key, text in texts:
        _check(key, text, values)
    tree.update(_followed(tree) if texts else deepcopy(tree))


def _followed(tree: Tree) -> Tree:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        where = re.sub(r"\[.*", "", error.full_key or "")  # of an item of a list: the list
        what = first_line(error)
        raise KeyProblem(where, f"its reference cannot be followed: {what}") from error
    return dict(resolved)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value that holds a reference; blocks come as keys of their own, but for those in a list."""
    if isinstance(value, list):
        for item in value:
            for inner in item.values() if isinstance(item, dict) else (item,):
                yield from _texts([inner] if isinstance(inner, dict) else inner)
    elif isinstance(value, str) and "${" in value:
        yield value


def _check(key: str, text: str, values: dict[str, Any]) -> None:
    """Every ``${...}`` of ``text`` names a key that holds a value."""
    if "${" in REFERENCE.sub("", text):
        raise KeyProblem(key, f"{text} is not a reference, write ${{block.key}}")
    for name in REFERENCE.findall(text):
        if ":" in name:
            raise KeyProblem(key, f"${{{name}}} is not allowed, a reference names another key")
        if name not in values or isinstance(values[name], dict):
            near = get_close_matches(name, values, n=1)
            raise KeyProblem(key, f"${{{name}}} names no key" + (f" (did you mean {near[0]}?)" if near else ""))
