"""Text to a tree of dicts, lists, text and null: scalars stay text, because the schema knows what each should be.

So ``1e-4`` is a number and ``NO`` is text where the schema says so, whatever YAML 1.1 makes of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dinov3.config.errors import ConfigError
from dinov3.config.recipes import others, recipes

Tree = dict[str, Any]  # values: str, None, list, Tree

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # aliases of aliases can stand for billions in a few lines
MAX_DEPTH = 20
PLAIN_TAGS = {f"tag:yaml.org,2002:{t}" for t in ("null", "bool", "int", "float", "str", "timestamp", "value", "merge")}
MERGE = "tag:yaml.org,2002:merge"
NULL = "tag:yaml.org,2002:null"


def read_yaml(path: Path) -> Tree:
    """The blocks and keys of a YAML file.

    Raises ConfigError when there is no such file, it is not a YAML mapping, or a key stands twice.
    """
    source = str(path)
    if path.is_dir():
        raise ConfigError(source, "", "is a folder, a YAML file is expected")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(source, "", f"has more than {MAX_BYTES} bytes, that is no config")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = f"; the shipped recipes are {', '.join([*recipes(), *others()])}" if path.name == source else ""
        raise ConfigError(source, "", f"no such file{known}") from None
    except OSError as error:
        raise ConfigError(source, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(source, "", "is not a text file") from None
    tree = parse_yaml(text, source)
    if tree is None:
        raise ConfigError(source, "", "is empty")
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError(source, "", f"holds {kind}, blocks of keys are expected")
    return tree


def parse_yaml(text: str, source: str, key: str = "") -> Any:
    """The value that ``text`` stands for under ``key``."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = str(error.problem)
        if what.startswith("but "):  # PyYAML splits that sentence over two fields
            what = f"{error.context} {what}"
        raise ConfigError(source, key, f"is not YAML: {line}{what}") from None
    except yaml.YAMLError as error:
        raise ConfigError(source, key, f"is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(source, key, "is nested too deeply") from None
    return None if node is None else _Builder(source).value(node, key)


class _Builder:
    """Nodes to values, with a limit on how many."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.left = MAX_VALUES
        self.open: list[yaml.Node] = []  # from the root down to here: an alias to one of them has no end

    def value(self, node: yaml.Node, key: str) -> Any:
        self.left -= 1
        if self.left < 0 or node in self.open:
            raise ConfigError(self.source, key, f"aliases stand for more than {MAX_VALUES} values")
        if len(self.open) > MAX_DEPTH:
            raise ConfigError(self.source, key, "is nested too deeply")
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, key)
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, key, {"tag:yaml.org,2002:seq"})
                return [self.value(item, key) for item in node.value]
            self._check_tag(node, key, PLAIN_TAGS)
            return None if node.tag == NULL else node.value
        finally:
            self.open.pop()

    def _mapping(self, node: yaml.MappingNode, key: str) -> Tree:
        self._check_tag(node, key, {"tag:yaml.org,2002:map"})
        found: Tree = {}
        inherited: Tree = {}
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == MERGE:
                inherited |= self._merged(value_node, key)
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                raise ConfigError(self.source, key, f"line {line}: a key must be a word")
            name = name_node.value
            full = f"{key}.{name}" if key else name
            if name in lines:
                raise ConfigError(self.source, full, f"given twice, in lines {lines[name]} and {line}")
            lines[name] = line
            found[name] = self.value(value_node, full)
        return inherited | found

    def _merged(self, node: yaml.Node, key: str) -> Tree:
        """What ``<<: *name`` brings in; of several, the first wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: Tree = {}
        for source in reversed(sources):
            value = self.value(source, key)
            if not isinstance(value, dict):
                raise ConfigError(self.source, key, f"line {node.start_mark.line + 1}: << needs a block of keys")
            merged |= value
        return merged

    def _check_tag(self, node: yaml.Node, key: str, allowed: set[str]) -> None:
        if node.tag not in allowed:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(self.source, key, f"line {node.start_mark.line + 1}: the tag {tag} is not allowed")
