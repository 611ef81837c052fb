"""Where a run goes on, and whether this config may continue it: some keys decide what the weights mean and are fixed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dinov3.config.derived import images_per_process
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.data.sources.mixture import title
from dinov3.distributed import siblings
from dinov3.distributed.agreement import one_fate, same_on_all
from dinov3.distributed.context import is_main
from dinov3.runs.checkpoint import CheckpointError, newest_valid, step_folders, step_of
from dinov3.runs.manifest import problem_with, read_train_state

# A key is fixed when it starts with one of these. Everything else may change and is recorded.
FIXED = (
    "student.",
    "dino.head_",
    "ibot.head_",
    "ibot.separate_head",
    "gram.use_loss",
    "gram.ema_teacher",
    "da3.",
    "feature_anchor.enabled",
    "feature_distillation.",
    "lora.",
    "head_warmup.",
    "optim.optimizer",
    "optim.adamw_",
    "train.seed",
    "train.dataset_path",
    "train.batch_size_per_gpu",
    "train.gradient_accumulation_steps",
    "train.accumulation",
    "train.centering",
)
# Schedules and speed, not meaning.
FREE = (
    "da3.loss_weight",
    "da3.ckpt_path",
    "da3.use_fsdp",
    "da3.dtype",
    "feature_distillation.loss_weight",
    "feature_distillation.checkpoint",
    "student.drop_path_rate",
    "student.fp8",
    "student.pretrained_allow",
)


# They may change with the number of processes as long as a step has the same images.
SHARES_OF_A_BATCH = ("train.batch_size_per_gpu", "train.gradient_accumulation_steps")


@dataclass(frozen=True)
class Start:
    """Where training is taken up."""

    found: Path | None = None  # a verified checkpoint; None: at the beginning
    resumed_from: str | None = None  # what --resume-from gave, in this start or an earlier one
    roll_back: str = ""  # why newer checkpoints are to be moved aside; empty: they are not
    beginning: Path | None = None  # a verified checkpoint of another run, where this one begins


def find_start(out: Path, resume_from: Path | None) -> Start:
    """The newest whole checkpoint of the run, or the one that was asked for. Raises CheckpointError on every process.

    Runs that share their steps with others go on from the newest step that all of them have a checkpoint of.
    """
    look = partial(_find_start, out, resume_from)
    start = one_fate(partial(same_on_all, look, CheckpointError), (CheckpointError,))
    while len(reached := {*siblings.numbers(_reached(start))}) > 1:
        look = partial(_not_beyond, start, out, int(min(reached)))
        start = one_fate(partial(same_on_all, look, CheckpointError), (CheckpointError,))
    return start


def _reached(start: Start) -> int:
    return 0 if start.found is None else step_of(start.found)


def _not_beyond(start: Start, out: Path, step: int) -> Start:
    """``start``, or where another student's newest ``step`` allows to go on. CheckpointError when much would be lost."""
    if _reached(start) <= step:
        return start
    found = newest_valid(out, at_most=step)
    if found is None and (step > 0 or len(step_folders(out)) > 1):  # one alone: the other was killed in its first save
        raise CheckpointError(
            f"{out.parent}: {out.name} has no checkpoint of step {step} or before, and another student none after it: "
            "put back what was there, or begin again with --no-resume"
        )
    return Start(found, roll_back=f"another student is at step {step}")


def _find_start(out: Path, resume_from: Path | None) -> Start:
    if resume_from is not None:
        resume_from = resume_from.resolve()
        for newest in step_folders(out)[-1:]:
            # the same command again continues what it began
            if problem_with(newest) is None and read_train_state(newest).get("resumed_from") == str(resume_from):
                return Start(newest, str(resume_from))
        if problem := problem_with(resume_from):
            raise CheckpointError(f"--resume-from {resume_from}: {problem}")
        return Start(resume_from, str(resume_from), roll_back="--resume-from")
    found = newest_valid(out)
    return Start(found, None if found is None else read_train_state(found).get("resumed_from"))


def roll_back(out: Path, start: Start) -> None:
    """Move the checkpoints that a step back leaves behind into ``before-N/ckpt``; nothing is deleted."""
    if not start.roll_back or not is_main():
        return
    found = start.found and start.found.resolve()
    newer = [f for f in step_folders(out) if f.resolve() != found and step_of(f) >= _reached(start)]
    if newer:
        aside = out / f"before-{1 + len(list(out.glob('before-*')))}" / "ckpt"
        aside.mkdir(parents=True)
        for folder in newer:
            os.rename(folder, aside / folder.name)
        print(f"{start.roll_back}: {len(newer)} later checkpoints are now in {aside}")


def compare_with_start(cfg: Config, out: Path, start: Start, dataset: str, world: int) -> dict[str, tuple[Any, Any]]:
    """Key -> (old, new) for what changed since the run was started; ConfigError when it is something that must not."""
    if start.found is None:
        return {}
    changes = changed_since(cfg, start.found.parents[1])
    changes = {k: v for k, v in changes.items() if not k.startswith("resume.")}
    allowed = list(cfg.resume.allow)
    if batch_before(start) == images_per_process(cfg) * world:
        allowed += SHARES_OF_A_BATCH
    refuse_fixed(changes, allowed, str(out))
    before = read_train_state(start.found)["dataset"]
    if before is not None and before != dataset and "train.dataset_path" not in cfg.resume.allow:
        problem = (
            f"{title(cfg.train.dataset_path)} does not hold the images this run was started with (fingerprint {before}, now {dataset}); "
            "put them back, use another --output-dir, or add train.dataset_path to resume.allow"
        )
        raise ConfigError(str(out), "train.dataset_path", problem)
    return changes


def batch_before(start: Start) -> int | None:
    """Images of a step, over all processes, when the checkpoint was written."""
    images: int | None = None if start.found is None else read_train_state(start.found).get("global_batch")
    return images


def changed_batch(start: Start, images: int) -> list[str]:
    """A line for the start-up block when a step now has another number of ``images``, over all processes, than before."""
    before = batch_before(start)
    return (
        [] if before in (None, images) else [f"changed    effective batch: {before} -> {images} images since the start"]
    )


def changed_since(cfg: Config, run: Path) -> dict[str, tuple[Any, Any]]:
    """Key -> (old, new) for what is not as the run in this folder began with; nothing when it did not write that down."""
    recorded = run / "config.json"
    return changed_keys(with_defaults(json.loads(recorded.read_text())), to_dict(cfg)) if recorded.exists() else {}


def with_defaults(old: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier program's config with today's keys: what it did not know had its default."""
    return _merged(to_dict(Config()), old)


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(base[k], v) if isinstance(v, Mapping) and isinstance(base.get(k), dict) else v
        for k, v in over.items()
    }
    return {**base, **both}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (old, new) for every key whose value differs."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def refuse_fixed(changes: Mapping[str, tuple[Any, Any]], allowed: Sequence[str], run: str) -> None:
    """ConfigError when a fixed key changed and ``resume.allow`` does not list it."""
    for key, (old, new) in changes.items():
        if key.startswith(FIXED) and not key.startswith(FREE) and key not in allowed:
            problem = (
                f"this run was started with {old!r}, now it is {new!r}; "
                f"use another --output-dir, put the old value back, or add {key} to resume.allow"
            )
            raise ConfigError(run, key, problem)
