"""Defaults <- YAML <- ``key=value`` arguments <- checks -> a Config of plain dataclasses."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from dinov3.config.about.default_yaml import default_yaml
from dinov3.config.arguments import COMMAND_LINE, not_an_override
from dinov3.config.convert import as_text, convert, convert_block
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import ConfigError, KeyProblem
from dinov3.config.kind import Schema
from dinov3.config.names import accepts_list, accepts_text, hint_of, types_of_keys
from dinov3.config.pretraining import PRETRAIN
from dinov3.config.references import flat, resolve_references
from dinov3.config.schema import Config
from dinov3.config.spec import block_of, is_optional, leaves
from dinov3.config.stages import BLOCKS, NAMES, Layer, Stage, layers_of, names_of, refuse_later_stages
from dinov3.config.students import Student, check_students, layers_of_students
from dinov3.config.yaml_file import Tree, parse_yaml, read_yaml

__all__ = ["default_yaml", "load_config", "load_stages", "load_students", "parse_override", "to_dict", "to_yaml"]

log = logging.getLogger(__name__)
OVERRIDE = re.compile(r"([A-Za-z]\w*(?:\.\w+)*)=(.*)", re.DOTALL)
NULL_WORDS = {"null", "Null", "NULL", "~"}


C = TypeVar("C")


@overload
def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config: ...


@overload
def load_config(path: str | Path | None, overrides: Sequence[str], schema: Schema[C]) -> C: ...


def load_config(path: str | Path | None = None, overrides: Sequence[str] = (), schema: Schema[Any] = PRETRAIN) -> Any:
    """The config of a run; of a file with stages, that of the first (all are checked).

    ``path``: a YAML in DINOv3's keys, None for the defaults; ``overrides``: ``optim.lr=1e-4`` and the like; ``schema``:
    of the kind of run, whose root the config is an instance of. Raises ConfigError for anything that cannot be used.
    """
    return load_stages(path, overrides, schema)[0].cfg


def load_stages(
    path: str | Path | None = None, overrides: Sequence[str] = (), schema: Schema[Any] = PRETRAIN
) -> list[Stage]:
    """The configs of all stages in their order; one without a name for a file without ``stages``. Arguments as above."""
    stages, said = _stages(path, overrides, schema)
    _say(said)
    return stages


def _stages(path: str | Path | None, overrides: Sequence[str], schema: Schema[Any]) -> tuple[list[Stage], list[Said]]:
    layers = _layers(path, overrides, schema)
    names = names_of(layers)
    stages: list[Stage] = []
    said: list[Said] = []
    for number, name in enumerate(names or [""], start=1):
        earlier = [stage.name for stage in stages]
        cfg, about = _config_of(layers_of(layers, name, earlier[-1] if earlier else None), name, schema)
        stages.append(Stage(name, number, cfg))
        refuse_later_stages(stages[-1], earlier, layers[0][0] if layers else COMMAND_LINE)
        said.append(about)
    return stages, said


def load_students(path: str | Path | None = None, overrides: Sequence[str] = ()) -> list[Student]:
    """The configs of all students of a file whose ``multidistillation.enabled`` is true. Arguments as above.

    What ``load_stages`` says about the file itself is not said again.
    """
    first, common = _stages(path, overrides, PRETRAIN)
    settings = first[0].cfg.multidistillation
    layers, students, said = _layers(path, overrides, PRETRAIN), [], []
    for name, ranks, own in layers_of_students(settings, layers, 0 if path is None else 1, COMMAND_LINE):
        cfg, about = _config_of(own, "", PRETRAIN)
        students.append(Student(name, ranks, cfg))
        said.append(about)
    _say(said, common)
    check_students(students, layers[0][0])
    return students


def _layers(path: str | Path | None, overrides: Sequence[str], schema: Schema[Any]) -> list[Layer]:
    """The file and the command line, lowest first."""
    files = [] if path is None else [(str(path), read_yaml(Path(path)))]
    return [*files, *((COMMAND_LINE, parse_override(text, schema)) for text in overrides)]


class Said(NamedTuple):
    """What is to be said about a config that can be used."""

    idle: set[tuple[str, str]]  # (who gave it, published key that does nothing here)
    lines: list[str]


def _say(parts: Sequence[Said], said_before: Sequence[Said] = ()) -> None:
    """Warn of everything once, however many stages and students share a file: published keys in one line a source."""
    idle = {pair for part in parts for pair in part.idle} - {pair for part in said_before for pair in part.idle}
    lines = dict.fromkeys(line for part in parts for line in part.lines)
    for source in sorted({source for source, _ in idle}):
        keys = ", ".join(sorted(key for giver, key in idle if giver == source))
        log.warning("%s: these published keys do nothing here: %s", source, keys)
    for line in lines:
        if not any(line in part.lines for part in said_before):
            log.warning("%s", line)


def _config_of(layers: list[Layer], stage: str, schema: Schema[Any]) -> tuple[Any, Said]:
    """The config of one run, and what is to be said about it; ``stage``: its name, empty when there is only one."""
    tree: Tree = asdict(schema.root())
    origin: dict[str, str] = {}  # key -> who gave its value
    ignored: list[str] = []
    for source, values in layers:
        try:
            dropped = _check_names(values, "", schema)
        except KeyProblem as problem:
            raise ConfigError(source, problem.key, problem.problem) from None
        ignored += dropped
        _merge(tree, values)
        origin |= dict.fromkeys([*dropped, *(key for key, _ in flat(values))], source)
    try:
        resolve_references(tree)
        gave_way = schema.fill(tree, origin, [source for source, _ in layers])
        cfg, published = _typed(tree, origin, schema)
    except KeyProblem as problem:
        source = _source_of(problem.key, origin, layers)
        if stage and not source.endswith(f": stage {stage}"):  # said for all stages, wrong in this one
            source = f"{source}: stage {stage}"
        raise ConfigError(source, problem.key, problem.problem) from None
    idle = {(source, key) for source, key in _what_does_nothing(cfg, origin, ignored, schema.root)}
    return cfg, Said(idle, [*gave_way, *published, *schema.remarks(cfg, origin)])


def _source_of(key: str, origin: dict[str, str], layers: list[Layer]) -> str:
    """Who gave a key, or the block it is in; for a default, the file."""
    while key and key not in origin:
        key = key.rpartition(".")[0]
    return origin[key] if key else layers[0][0]


def parse_override(text: str, schema: Schema[Any] = PRETRAIN) -> Tree:
    """``a.b=value`` as ``{"a": {"b": value}}``. The value is YAML, but bare text where the key holds text."""
    match = OVERRIDE.fullmatch(text)
    if match is None:
        raise ConfigError(COMMAND_LINE, text, not_an_override(text))
    key, raw = match.groups()
    if key == NAMES:
        return {NAMES: parse_yaml(raw, COMMAND_LINE, key)}
    if f"{key}.".startswith(f"{BLOCKS}."):
        name, _, rest = key.removeprefix(BLOCKS).removeprefix(".").partition(".")
        if not rest:
            raise ConfigError(
                COMMAND_LINE, key, f"needs a key of a stage, as {BLOCKS}.{name or 'NAME'}.optim.epochs=10"
            )
        return {BLOCKS: {name: parse_override(f"{rest}={raw}", schema)}}
    value: Any = raw
    try:
        is_text = key not in schema.ignored and accepts_text(hint_of(key, schema.root))
        is_text = is_text and not (raw[:1] == "[" and accepts_list(hint_of(key, schema.root)))
    except KeyProblem as problem:
        raise ConfigError(COMMAND_LINE, problem.key, problem.problem) from None
    if is_text and raw in NULL_WORDS:
        value = None
    elif not is_text or raw[:1] in {'"', "'"}:
        value = parse_yaml(raw, COMMAND_LINE, key)
    for name in reversed(key.split(".")):
        value = {name: value}
    nested: Tree = value
    return nested


def _check_names(values: Tree, prefix: str, schema: Schema[Any]) -> list[str]:
    """Raise for unknown keys; drop ignored ones and empty blocks. Returns the ignored keys that ask for something."""
    known, ignored = schema.ignored, []
    for name in list(values):
        key, value = prefix + name, values[name]
        if key in known:
            if as_text(values.pop(name)) not in known[key]:
                ignored.append(key)
            continue
        group = any(i.startswith(f"{key}.") for i in known) and key not in types_of_keys(schema.root)
        if isinstance(value, dict) and group:
            ignored += _check_names(values.pop(name), f"{key}.", schema)
            continue
        hint = hint_of(key, schema.root)
        if "." in name:
            raise KeyProblem(key, f"dots are for the command line; in a file write a block {name.partition('.')[0]}")
        if block_of(hint) is None:
            continue
        if isinstance(value, dict):
            ignored += _check_names(value, f"{key}.", schema)
        elif value is None and not is_optional(hint):
            del values[name]  # a heading with nothing under it
        elif value is not None:
            convert(value, hint, key)  # raises: a later layer must not cover it up
    return ignored


def _merge(base: Tree, values: Tree) -> None:
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _typed(tree: Tree, origin: dict[str, str], schema: Schema[Any]) -> tuple[Any, list[str]]:
    """The dataclasses, with all limits and checks held; and what is to be said of published keys."""
    specs = {leaf.key: leaf for leaf in leaves(schema.root, schema.root())}
    if tree.get("schedules") is not None:
        for key, value in list(flat(tree)):
            if key in specs and specs[key].spec.replaced_by:
                _set_aside(tree, key, value, specs[key].default, specs[key].spec.replaced_by, origin)
    cfg = convert_block(tree, schema.root, "")
    said = list(schema.settle(cfg, origin))
    for rule in schema.checks:
        for key, problem in rule(cfg):
            raise KeyProblem(key, problem)
    return cfg, said


def _set_aside(tree: Tree, key: str, value: Any, default: Any, replaced_by: str, origin: dict[str, str]) -> None:
    """A key of the first schedule style in a config of the second: null is legal, an argument would be lost."""
    if origin.get(key) == COMMAND_LINE:
        raise KeyProblem(key, f"does nothing while `schedules` is given; set {replaced_by}")
    if value is None:
        block, name = key.split(".")
        tree[block][name] = default


def _what_does_nothing(cfg: Any, origin: dict[str, str], ignored: list[str], root: type) -> Iterator[tuple[str, str]]:
    """Source and name of published keys that were set and change nothing here."""
    values = dict(flat(asdict(cfg)))
    dead = [x.key for x in leaves(root, root()) if x.spec.dead and values.get(x.key) != x.default]
    for key in (*ignored, *dead):
        yield origin[key], key
