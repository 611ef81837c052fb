"""What a YAML of one kind of run may say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from dinov3.config.yaml_file import Tree

Origin = Mapping[str, str]  # key -> who gave it: a file, or the command line
Check = Callable[[Any], Iterator[tuple[str, str]]]  # of a config: (key, what is wrong and what to do)


def _nothing_to_fill(tree: Tree, origin: Origin, sources: Sequence[str]) -> list[str]:
    return []


def _nothing_to_say(cfg: Any, origin: Origin) -> Iterator[str]:
    return iter(())


C = TypeVar("C")


class Schema(NamedTuple, Generic[C]):
    """Keys of one kind of run, and what must hold between them."""

    root: type[C]  # the dataclass of all blocks; its fields are made by ``spec.key``
    checks: tuple[Check, ...] = ()
    ignored: Mapping[
        str, tuple[str, ...]
    ] = {}  # keys of published files without a meaning here -> values that ask for none
    fill: Callable[[Tree, Origin, Sequence[str]], list[str]] = _nothing_to_fill
    """Before types are looked at: sets keys that follow from others; returns what is to be said. ``sources``: all who gave
    a key, lowest first. Raises KeyProblem."""
    settle: Callable[[Any, Origin], Iterator[str]] = _nothing_to_say
    """Before the checks: brings a config of the right types into the form the program works with; yields what is to be
    said. Raises KeyProblem."""
    remarks: Callable[[Any, Origin], Iterator[str]] = _nothing_to_say
    """What is to be said of a config that can be used."""
