"""``stages``: several runs in one YAML, one after the other. What a file says about all of them, and about each.

    stages: [pretrain, gram]      # in this order
    stage:
      pretrain: {optim: {epochs: 100}}
      gram: {optim: {epochs: 10}, gram: {use_loss: true, source: init}}
    train: …                      # everything else is for every stage

A stage is a config of its own: the whole file with the stage's block laid over it. An override ``optim.lr=1e-4`` is for
every stage, ``stage.gram.optim.lr=1e-4`` for one. Where the first stage starts from is for the first only; every other
one starts from the stage before it (``start.run: stage:NAME``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dinov3.config.convert import convert
from dinov3.config.errors import ConfigError, KeyProblem
from dinov3.config.references import flat
from dinov3.config.yaml_file import Tree
from dinov3.system.errors import Foreseeable

NAMES, BLOCKS = "stages", "stage"  # the two keys; no single run has them
MEANING = {
    NAMES: "names of the blocks below `stage` that are run, in this order; each starts where the one before ended",
    BLOCKS: "by name, what differs in each stage from the rest of the file; any key may stand there",
}
EARLIER = "stage:"  # start.run and gram.ckpt may name an earlier stage so
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Where a run begins: for the first stage, unless a stage's own block says it.
BEGINNING = (
    ("start", "run"),
    *(("student", key) for key in ("pretrained_weights", "pretrained_allow", "resume_from_teacher_chkpt")),
)
Layer = tuple[str, Tree]  # who says it, what


@dataclass(frozen=True)
class Stage:
    """One run of several. ``name`` is empty for a run without stages."""

    name: str
    number: int  # from 1
    cfg: Any  # of the schema's root


@contextlib.contextmanager
def named(stage: str) -> Iterator[None]:
    """Errors inside name the stage, when there are several."""
    if not stage:
        yield
        return
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"stage {stage}", "", str(error)) from error
    except Foreseeable as error:
        said = Foreseeable(f"stage {stage}: {error}")
        said.code = error.code
        raise said from error


def names_of(layers: list[Layer]) -> list[str]:
    """The stages in their order; none for a single run. ConfigError for names that cannot be used."""
    names: list[str] = []
    said_by = ""
    listed: set[str] = set()  # also those that an argument leaves out
    for source, tree in layers:
        if NAMES in tree:
            try:
                names, said_by = convert(tree[NAMES] or [], list[str], NAMES), source
                listed |= set(names)
            except KeyProblem as problem:
                raise ConfigError(source, problem.key, problem.problem) from None
        if not isinstance(tree.get(BLOCKS) or {}, dict):
            raise ConfigError(source, BLOCKS, f"{tree[BLOCKS]!r} is not a block of keys: one block for each name")
    given = {name: source for source, tree in layers for name in tree.get(BLOCKS) or {}}
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(said_by, NAMES, f"{name!r} names a folder: use letters, digits, - and _")
        if names.count(name) > 1:
            raise ConfigError(said_by, NAMES, f"{name} stands there twice")
        if name not in given:
            raise ConfigError(said_by, NAMES, f"{name} has no block {BLOCKS}.{name} (it may be empty: {name}: {{}})")
    for name, source in given.items():
        if name not in listed:
            unlisted = f"is not in {NAMES}: [{', '.join(names)}], so it is never run: add it there or remove it"
            raise ConfigError(source, f"{BLOCKS}.{name}", unlisted)
    return names


def layers_of(layers: list[Layer], name: str, before: str | None) -> list[Layer]:
    """What says something about the stage ``name``, lowest first; ``before``: the stage it follows."""
    found: list[Layer] = []
    for source, tree in layers:
        common = _copy({k: v for k, v in tree.items() if k not in (NAMES, BLOCKS)})
        if before is not None:
            for block, key in BEGINNING:
                if isinstance(common.get(block), dict):
                    common[block].pop(key, None)
            if not found:
                common["start"] = common.get("start") or {}
                if isinstance(common["start"], dict):  # what else it may be is for the schema to refuse
                    common["start"]["run"] = EARLIER + before
        found.append((source, common))
        if own := (tree.get(BLOCKS) or {}).get(name):
            source = f"{source}: stage {name}"
            if not isinstance(own, dict):
                raise ConfigError(source, "", f"{own!r} is not a block of keys")
            if isinstance(own.get("train"), dict) and "output_dir" in own["train"]:
                raise ConfigError(source, "train.output_dir", "is the folder of all stages: give it outside `stage`")
            found.append((source, _copy(own)))
    return found


def _copy(value: Any) -> Any:
    """Trees are changed where they are read."""
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def refuse_later_stages(stage: Stage, earlier: list[str], source: str) -> None:
    """ConfigError when a key names a stage that does not come before this one."""
    for key, path in flat(asdict(stage.cfg)):
        if isinstance(path, str) and path.startswith(EARLIER) and path.removeprefix(EARLIER) not in earlier:
            choices = f"choose from {', '.join(EARLIER + name for name in earlier)}" if earlier else "nothing does"
            where = f"{source}: stage {stage.name}" if stage.name else source
            raise ConfigError(where, key, f"{path} must come before this one: {choices}")
