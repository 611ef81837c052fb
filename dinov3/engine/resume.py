"""Whether this config may continue the run it found: some keys decide what the weights mean and are fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dinov3.config.blocks.train import OTHER_CONTENT
from dinov3.config.changes import Changes, changed_keys, refuse_fixed, with_defaults
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.run_config import RunConfig
from dinov3.distributed.context import world_size
from dinov3.engine.job import DataMatch, Job
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import read_train_state
from dinov3.runs.recorded import recorded_config
from dinov3.runs.start import Start

PLACE = "train.dataset_path"
# They may change with the number of processes as long as a step has the same samples.
SHARES_OF_A_BATCH = ("train.batch_size_per_gpu", "train.gradient_accumulation_steps")


def images_a_step(cfg: RunConfig) -> int:
    """Samples of one optimizer step over all processes."""
    return cfg.train.batch_size_per_gpu * cfg.train.gradient_accumulation_steps * world_size()


class Continued(NamedTuple):
    """What is different from the start of a run that goes on, all of it allowed."""

    changes: Changes
    notes: list[str]  # lines of the start-up block


def compare_with_start(job: Job[Any], start: Start) -> Continued:
    """What changed since the run was started; ConfigError when it is something that must not.

    Data at another place are the same data when their content is: ``train.dataset_path`` in ``resume.allow`` is for those
    whose content was not recorded, ``dataset_content`` for other images.
    """
    cfg = job.cfg
    if start.found is None:
        return Continued({}, [])
    changes = changed_since(cfg, RunFolder(start.found.parents[1]), start.found)
    changes = {k: v for k, v in changes.items() if not k.startswith("resume.")}
    allowed = list(cfg.resume.allow)
    if batch_before(start) == images_a_step(cfg):
        allowed += SHARES_OF_A_BATCH
    before, notes = read_train_state(start.found)["dataset"], []
    match = DataMatch(True, proven=False) if before is None else job.compare_data(before)
    if not match.same:
        if OTHER_CONTENT not in allowed:
            old, new = changes.get(PLACE, (None, None))
            moved = f"this run was started with {old!r}, now it is {new!r}, which holds other data" if new else ""
            problem = (
                f"{moved or 'does not hold the data this run was started with'} (fingerprint {before}, now "
                f"{job.open_data()}); put them back, use another --output-dir, or add {OTHER_CONTENT} to resume.allow"
            )
            raise ConfigError(str(job.run), PLACE, problem)
        notes.append(f"changed    the data: other content than at the start ({OTHER_CONTENT} in resume.allow)")
    elif match.proven:
        allowed.append(PLACE)  # only the place may be another, and it is named with the other changes
    elif before is not None:
        notes.append("data       same names as at the start; the run was begun before contents were recorded")
    refuse_fixed(changes, allowed, str(job.run), type(cfg))
    return Continued(changes, notes)


def batch_before(start: Start) -> int | None:
    """Samples of a step, over all processes, when the checkpoint was written."""
    images: int | None = None if start.found is None else read_train_state(start.found).get("global_batch")
    return images


def changed_batch(start: Start, images: int) -> list[str]:
    """A line for the start-up block when a step now has another number of ``images``, over all processes, than before."""
    before = batch_before(start)
    return (
        [] if before in (None, images) else [f"changed    effective batch: {before} -> {images} images since the start"]
    )


def changed_since(cfg: RunConfig, run: RunFolder, newest: Path | None = None) -> Changes:
    """Key -> (old, new) for what is not as the run in this folder began with; nothing when nobody wrote that down.

    ``newest``: a verified checkpoint of it, which has a copy. ConfigError for a run of another kind: it would be compared
    key by key with defaults it never had.
    """
    old, new = recorded_config(run, type(cfg), newest), to_dict(cfg)
    if old is None:
        return {}
    if foreign := sorted(set(old) - set(new)):
        blocks = ", ".join(foreign)
        problem = f"is a run of another kind, or of a newer program (it has {blocks}): use another folder"
        raise ConfigError(str(run), "--output-dir", problem)
    return changed_keys(with_defaults(old, type(cfg)), new)
