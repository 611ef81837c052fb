"""What a run that was killed after its last save has left to do: remove what is left of the save, look, draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dinov3.distributed.agreement import main_decides
from dinov3.distributed.context import is_main
from dinov3.engine.job import Job
from dinov3.engine.resume import changed_since
from dinov3.runs import manifest
from dinov3.runs.checkpoint import Checkpointer
from dinov3.runs.folder import EVALUATION
from dinov3.runs.lock import RunLock
from dinov3.runs.start import Start
from dinov3.runs.step_folders import step_of
from dinov3.system.rows import read_rows

RULES = {"checkpointing.max_to_keep", "checkpointing.keep_every"}
AnyJob = Job[Any]


def is_tidy(job: AnyJob, last: Path) -> bool:
    """Whether nothing of a killed save is there that could be removed. ``last``: the run's last, verified checkpoint."""
    return not os.access(job.run.checkpoints, os.W_OK) or not _checkpointer(job, last).left_over(last)


def tidy(job: AnyJob, last: Path) -> None:
    """Remove what a killed save left beside the ``last`` checkpoint; without any, nothing is written.

    Every process must call it. Raises RunLocked and CheckpointError on all.
    """
    if main_decides(lambda: is_tidy(job, last)):
        return
    with RunLock(job.run.path):
        removed = _checkpointer(job, last).tidy(last)
    if is_main():
        print(f"{job.run}: removed what a killed run left: {', '.join(p.name for p in removed)}")


def _checkpointer(job: AnyJob, last: Path) -> Checkpointer:
    """Under other rules than the run began with, older checkpoints are not what a kill left: all are kept."""
    keep, same = job.cfg.checkpointing, changed_since(job.cfg, job.run, last).keys().isdisjoint(RULES)
    most = keep.max_to_keep if same else None
    if most is not None and job.peers.several:
        most = max(most, 2)  # the one before the last was kept until all students had the last
    return Checkpointer(job.run.path, max_to_keep=most, keep_every=keep.keep_every)


def is_closed(job: AnyJob, last: Path) -> bool:
    """Whether the last evaluation and the pictures of the end are there, or cannot be written."""
    return not os.access(job.run.path, os.W_OK) or not missing(job, last)


def missing(job: AnyJob, last: Path) -> list[str]:
    """The files of a run's end that are not there, or not those of its ``last`` checkpoint."""
    step, saved = step_of(last), (last / manifest.NAME).stat().st_mtime_ns
    looks = job.looks()
    measured = any(row.get("step") == step for row in read_rows(job.run.evaluation))
    due = any(look.in_rows and look.due(step, ends=True) for look in looks)
    names = [EVALUATION] if due and not measured else []
    return names + [name for look in looks for name in look.missing(job.run, saved)]


def is_finished(job: AnyJob, start: Start, until: int) -> bool:
    """Whether a run that has its last checkpoint has its end too; what a kill left of the save is removed.

    Every process must call it. Raises as ``tidy`` does.
    """
    last = start.found
    assert last is not None
    if start.roll_back:  # for the first time: nothing here is this run's
        return True
    tidy(job, last)
    return step_of(last) > until or main_decides(lambda: is_closed(job, last))
