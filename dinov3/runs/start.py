"""Where a run goes on: its newest whole checkpoint, the one that was asked for, or the beginning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dinov3.distributed.agreement import all_runs_or_none, main_decides
from dinov3.distributed.context import is_main
from dinov3.distributed.peers import Peers
from dinov3.runs.folder import CHECKPOINTS, RunFolder
from dinov3.runs.manifest import problem_with, read_train_state
from dinov3.runs.step_folders import CheckpointError, newest_valid, step_folders, step_of


@dataclass(frozen=True)
class Start:
    """Where training is taken up."""

    found: Path | None = None  # a verified checkpoint; None: at the beginning
    resumed_from: str | None = None  # what --resume-from gave, in this start or an earlier one
    roll_back: str = ""  # why newer checkpoints are to be moved aside; empty: they are not
    beginning: Path | None = None  # a verified checkpoint of another run, where this one begins

    @property
    def reached(self) -> int:
        """Steps done."""
        return 0 if self.found is None else step_of(self.found)


def find_start(out: Path, resume_from: Path | None, peers: Peers) -> Start:
    """The newest whole checkpoint of the run, or the one that was asked for. Raises CheckpointError on every process.

    Runs that share their steps with others go on from the newest step that all of them have a checkpoint of.
    """
    look = partial(_find_start, out, resume_from)
    start = all_runs_or_none(partial(main_decides, look), peers)
    while len(reached := {*peers.numbers(start.reached)}) > 1:
        look = partial(_not_beyond, start, out, int(min(reached)))
        start = all_runs_or_none(partial(main_decides, look), peers)
    return start


def _not_beyond(start: Start, out: Path, step: int) -> Start:
    """``start``, or where another student's newest ``step`` allows to go on. CheckpointError when much would be lost."""
    if start.reached <= step:
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


def roll_back(run: RunFolder, start: Start) -> None:
    """Move the checkpoints that a step back leaves behind into ``before-N/ckpt``; nothing is deleted."""
    if not start.roll_back or not is_main():
        return
    found = start.found and start.found.resolve()
    newer = [f for f in step_folders(run.path) if f.resolve() != found and step_of(f) >= start.reached]
    if newer:
        aside = run.new_aside() / CHECKPOINTS
        aside.mkdir()
        for folder in newer:
            os.rename(folder, aside / folder.name)
        print(f"{start.roll_back}: {len(newer)} later checkpoints are now in {aside}")
