"""What differs between two configs, and whether a run may go on with the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.spec import leaves

Changes = dict[str, tuple[Any, Any]]  # key -> (old, new)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def with_defaults(old: Mapping[str, Any], root: type) -> dict[str, Any]:
    """An earlier program's config with today's keys of ``root``: what it did not know had its default."""
    return _merged(to_dict(root()), old)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(base[k], v) if isinstance(v, Mapping) and isinstance(base.get(k), dict) else v
        for k, v in over.items()
    }
    return {**base, **both}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """Key -> (old, new) for every key whose value differs."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def fixed_keys(root: type) -> frozenset[str]:
    """Keys that decide what weights mean: a run keeps them. ``fixed=True`` stands beside each, or beside its block."""
    return frozenset(leaf.key for leaf in leaves(root, root()) if leaf.spec.fixed)


def refuse_fixed(changes: Changes, allowed: Sequence[str], run: str, root: type) -> None:
    """ConfigError when a fixed key changed and ``resume.allow`` does not list it."""
    fixed = fixed_keys(root)
    for key, (old, new) in changes.items():
        # below a free dict or an optional block that is null on one side, keys are not leaves of the schema
        if not any(key == f or key.startswith(f"{f}.") or f.startswith(f"{key}.") for f in fixed) or key in allowed:
            continue
        problem = (
            f"this run was started with {old!r}, now it is {new!r}; "
            f"use another --output-dir, put the old value back, or, where no tensor changes its size, add {key} to resume.allow"
        )
        raise ConfigError(run, key, problem)
