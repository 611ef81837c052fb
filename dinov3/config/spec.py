"""What stands beside each key of the schema: meaning, unit, limits; and a walk over all keys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

SPEC = "spec"


@dataclass(frozen=True)
class Spec:
    """Meaning and limits of one key. Limits of a list hold for each of its items."""

    meaning: str
    unit: str = ""
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    length: int | None = None  # exact number of list items
    ordered: bool = False  # [low, high] with low <= high
    required: bool = False  # no default when the block is given
    nonempty: bool = False  # text that must not be empty
    path: bool = False  # a file or folder: `~` is expanded
    dead: bool = False  # a published key that nothing here reads
    replaced_by: str = ""  # the key that takes over when the block `schedules` is given
    fixed: bool | None = (
        None  # decides what weights mean, so a run keeps it; None: as its block, which is free if it says nothing
    )

    def limits(self) -> str:
        """The limits as a reader writes them, ``> 0, <= 1``; empty when there are none."""
        pairs = ((">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le))
        return ", ".join(f"{sign} {limit:g}" for sign, limit in pairs if limit is not None)

    def problem_with(self, value: Any) -> str | None:
        """None when ``value`` keeps the limits, else what is wrong."""
        if isinstance(value, list):
            return self._problem_with_list(value)
        if self.nonempty and value == "":
            return "must not be empty"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        below = (self.gt is not None and value <= self.gt) or (self.ge is not None and value < self.ge)
        above = (self.lt is not None and value >= self.lt) or (self.le is not None and value > self.le)
        shown = f"{value:.10g}" if isinstance(value, float) else value
        return f"{shown} is out of range: it must be {self.limits()}" if below or above else None

    def _problem_with_list(self, values: list[Any]) -> str | None:
        if self.nonempty and not values:
            return "must not be empty"
        if self.length is not None and len(values) != self.length:
            return f"{values} has {len(values)} values, {self.length} expected"
        for value in values:
            if problem := self.problem_with(value):
                return problem
        if self.ordered and values != sorted(values):
            return f"{values}: the first value must not be above the second"
        return None


def key(default: Any, meaning: str, **limits: Any) -> Any:
    """A dataclass field with its Spec. ``default``: a value (lists and dicts are copied) or a block's factory."""
    metadata = {SPEC: Spec(meaning, **limits)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def spec_of(f: Field[Any]) -> Spec:
    """The Spec that ``key`` stored."""
    spec: Spec = f.metadata[SPEC]
    return spec


@dataclass(frozen=True)
class Leaf:
    """One key that holds a value: ``optim.lr``."""

    key: str
    hint: Any  # its type
    default: Any
    spec: Spec
    owner: type  # the dataclass it is a field of
    name: str  # its last part


_hints = cache(get_type_hints)


def hints(block: Any) -> dict[str, Any]:
    """Field types of a block, evaluated."""
    return _hints(block)


def is_optional(hint: Any) -> bool:
    """True when the type allows null."""
    return get_origin(hint) in (Union, UnionType) and type(None) in get_args(hint)


def without_null(hint: Any) -> Any:
    """The type behind ``X | None``."""
    if arms_of(hint):
        return hint
    return next(a for a in get_args(hint) if a is not type(None)) if is_optional(hint) else hint


def block_of(hint: Any) -> type | None:
    """The dataclass behind a type, None for a leaf."""
    inner = without_null(hint)
    return inner if isinstance(inner, type) and is_dataclass(inner) else None


def blocks_in(hint: Any) -> list[type]:
    """The dataclasses in a type: behind null, in a list; none for other leaves."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [block for part in get_args(hint) for block in blocks_in(part)]


def arms_of(hint: Any) -> tuple[Any, ...]:
    """The types of which a value may have any, null left out; nothing for a single type."""
    arms = tuple(a for a in get_args(hint) if a is not type(None)) if get_origin(hint) in (Union, UnionType) else ()
    return arms if len(arms) > 1 else ()


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values a ``Literal`` allows, else nothing."""
    inner = without_null(hint)
    return get_args(inner) if get_origin(inner) is Literal else ()


def default_of(f: Field[Any]) -> Any:
    """A fresh default of a field."""
    factory: Callable[[], Any] | Any = f.default_factory
    return f.default if factory is MISSING else factory()


def leaves(block: type, default: Any, prefix: str = "", *, fixed: bool = False) -> Iterator[Leaf]:
    """Every leaf under ``block`` in the order of the schema; blocks that may be null are walked too.

    ``default``: an instance of ``block`` with the default values, None where the default is null. ``fixed``: whether
    the keys of this block are, unless they say otherwise.
    """
    for f in fields(block):
        name, hint = prefix + f.name, hints(block)[f.name]
        value = None if default is None else getattr(default, f.name)
        inner, spec = block_of(hint), spec_of(f)
        kept = fixed if spec.fixed is None else spec.fixed
        if inner is None:
            yield Leaf(
                name, hint, default_of(f) if default is None else value, replace(spec, fixed=kept), block, f.name
            )
        else:
            yield from leaves(inner, value, name + ".", fixed=kept)
