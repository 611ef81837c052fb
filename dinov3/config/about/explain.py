"""What a key or block means, and which keys speak of a word: `dinov3 config explain`, `dinov3 config search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dinov3.config.about.tasks import PRETRAIN, SCHEMAS, root_of, tasks_with
from dinov3.config.about.usage import places_by_key
from dinov3.config.convert import as_text, describe
from dinov3.config.dump import comment
from dinov3.config.errors import ConfigError, KeyProblem
from dinov3.config.ignored import IGNORED
from dinov3.config.names import hint_of, nearest
from dinov3.config.spec import Leaf, Spec, block_of, blocks_in, choices_of, hints, leaves, spec_of
from dinov3.config.stages import MEANING as STAGES
from dinov3.config.unbuilt import feature_of

SHOWN_PLACES = 8


def explain(key: str, task: str = PRETRAIN) -> str:
    """A few lines on a key: meaning, type, unit, limits, default, who reads it; on a block: its keys.

    ``task``: one of SCHEMAS. Raises ConfigError for an unknown key.
    """
    root = root_of(task)
    if key in STAGES:
        return f"{key}: {STAGES[key]}\n"
    if key in IGNORED and task == PRETRAIN:
        return f"{key}\n  accepted because published YAMLs have it; does nothing here\n"
    try:
        hint = hint_of(key, root)
    except KeyProblem as problem:
        raise ConfigError("config explain", problem.key, problem.problem + _elsewhere(key)) from None
    if block_of(hint) is not None:
        return "\n".join(_explain_block(key, root)) + "\n"
    found = {leaf.key: leaf for leaf in leaves(root, root())}
    leaf = found.get(key) or found[key.rpartition(".")[0]]  # an entry of a free dict is explained by the dict
    return "\n".join([*_explain_value(leaf), *_readers(leaf, task)]) + "\n"


def _elsewhere(key: str) -> str:
    """Where a key is known that the asked task does not have; nothing when nowhere."""
    tasks = tasks_with(key)
    return f"; there is one with {' or '.join(f'--task {task}' for task in tasks)}" if tasks else ""


def search(words: Sequence[str], task: str = PRETRAIN) -> str:
    """Every key that has all ``words`` in its name, meaning, unit or choices, a line each; by name comes first.

    ``task``: one of SCHEMAS. Raises ConfigError when there is none.
    """
    root, wanted = root_of(task), [word.lower() for word in words]
    found = _with_words(wanted, root)
    if not found:
        others = [other for other in SCHEMAS if other != task and _with_words(wanted, root_of(other))]
        near = nearest(words[-1], root)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        hint = f"; there are some with {' or '.join(f'--task {other}' for other in others)}" if others else hint
        raise ConfigError("config search", " ".join(words), f"no key has that in its name or meaning{hint}")
    found.sort(key=lambda leaf: not all(word in leaf.key.lower() for word in wanted))
    width = max(len(leaf.key) for leaf in found)
    return "".join(f"{leaf.key:<{width}}  {comment(leaf.hint, leaf.spec)}\n" for leaf in found)


def _with_words(wanted: Sequence[str], root: type[Any]) -> list[Leaf]:
    return [leaf for leaf in leaves(root, root()) if all(word in _searched(leaf) for word in wanted)]


def _searched(leaf: Leaf) -> str:
    return f"{leaf.key} {leaf.key.replace('_', ' ')} {comment(leaf.hint, leaf.spec)}".lower()


def _spec_of_block(key: str, root: type[Any]) -> Spec:
    block: type = root
    spec = None
    for name in key.split("."):
        spec = next(spec_of(f) for f in fields(block) if f.name == name)
        block = block_of(hints(block)[name]) or block
    assert spec is not None
    return spec


def _explain_block(key: str, root: type[Any]) -> list[str]:
    rows = [leaf for leaf in leaves(root, root()) if leaf.key.startswith(f"{key}.")]
    width = max(len(leaf.key) for leaf in rows)
    return [f"{key}: {_spec_of_block(key, root).meaning}", *(f"  {r.key:<{width}}  {r.spec.meaning}" for r in rows)]


def _explain_value(leaf: Leaf) -> list[str]:
    spec = leaf.spec
    lines = [
        f"{leaf.key}: {spec.meaning}",
        f"  type     {describe(leaf.hint)}" + (f", {spec.limits()}" if spec.limits() else ""),
        f"  default  {repr(leaf.default) if leaf.default == '' else as_text(leaf.default)}",
    ]
    for block in blocks_in(leaf.hint):
        lines[2:2] = [f"           {f.name}: {spec_of(f).meaning}" for f in fields(block)]
    if spec.unit:
        lines.append(f"  unit     {spec.unit}")
    if spec.replaced_by:
        lines.append(f"  note     unused when `schedules` is given; {spec.replaced_by} takes over")
    return lines


def _readers(leaf: Leaf, task: str) -> list[str]:
    """Source lines that read the key, or why there are none."""
    places = places_by_key(task)[leaf.key]
    feature = feature_of(leaf.key)
    if leaf.spec.dead:
        return ["  read by  nothing: accepted because published YAMLs have it"]
    if len(choices_of(leaf.hint)) == 1:
        return ["  read by  nothing: it has one legal value"]
    if not places:
        return [f"  read by  nothing yet: {feature} is not built" if feature else "  read by  nothing"]
    shown = [f"  read by  {places[0]}", *(f"           {place}" for place in places[1:SHOWN_PLACES])]
    more = len(places) - SHOWN_PLACES
    return [*shown, f"           and {more} more"] if more > 0 else shown
