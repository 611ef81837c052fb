"""What a run that was killed after its last save has left to do: remove what is left of the save, look, draw."""

from __future__ import annotations

import os
from pathlib import Path

from dinov3.config.schema import Config
from dinov3.distributed import siblings
from dinov3.distributed.agreement import same_on_all
from dinov3.distributed.context import is_main
from dinov3.runs.checkpoint import Checkpointer, step_of
from dinov3.runs.lock import RunLock
from dinov3.train import evidence
from dinov3.train.resume import Start, changed_since

RULES = {"checkpointing.max_to_keep", "checkpointing.keep_every"}


def is_tidy(cfg: Config, out: Path, last: Path) -> bool:
    """Whether nothing of a killed save is there that could be removed. ``last``: the run's last, verified checkpoint."""
    return not os.access(out / "ckpt", os.W_OK) or not _checkpointer(cfg, out).left_over(last)


def tidy(cfg: Config, out: Path, last: Path) -> None:
    """Remove what a killed save left beside the ``last`` checkpoint; without any, nothing is written.

    Every process must call it. Raises RunLocked and CheckpointError on all.
    """
    if same_on_all(lambda: is_tidy(cfg, out, last), OSError):
        return
    with RunLock(out):
        removed = _checkpointer(cfg, out).tidy(last)
    if is_main():
        print(f"{out}: removed what a killed run left: {', '.join(p.name for p in removed)}")


def _checkpointer(cfg: Config, out: Path) -> Checkpointer:
    """Under other rules than the run began with, older checkpoints are not what a kill left: all are kept."""
    keep, same = cfg.checkpointing, changed_since(cfg, out).keys().isdisjoint(RULES)
    most = keep.max_to_keep if same else None
    if most is not None and siblings.current() is not None:
        most = max(most, 2)  # the one before the last was kept until all students had the last
    return Checkpointer(out, max_to_keep=most, keep_every=keep.keep_every)


def is_closed(cfg: Config, out: Path, last: Path) -> bool:
    """Whether the last evaluation and the pictures of the end are there, or cannot be written."""
    return not os.access(out, os.W_OK) or not evidence.missing(cfg, out, last)


def is_finished(cfg: Config, out: Path, start: Start, until: int) -> bool:
    """Whether a run that has its last checkpoint has its end too; what a kill left of the save is removed.

    Every process must call it. Raises as ``tidy`` does.
    """
    last = start.found
    assert last is not None
    if start.roll_back:  # for the first time: nothing here is this run's
        return True
    tidy(cfg, out, last)
    return step_of(last) > until or same_on_all(lambda: is_closed(cfg, out, last), OSError)
