"""Several students of one teacher, each a run of its own in ``RUN/<name>``, in step with one another.

A student's run sees its own processes only: its batch, sums, checkpoints and lock are those of a run by itself. What
they share is the teacher's pass (``teachers/shared.py``), the step at which they stop or go on, and waiting for
whoever evaluates or saves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.config.students import BLOCK, Student
from dinov3.distributed.context import choose_device
from dinov3.distributed.peers import join
from dinov3.engine.life import run
from dinov3.runs.folder import RunFolder
from dinov3.runs.signals import StopRequest
from dinov3.runs.step_folders import step_folders
from dinov3.runs.student_folders import student_folders
from dinov3.train.job import PretrainingJob


def run_students(
    students: Sequence[Student],
    out: Path,
    *,
    resume: bool,
    resume_from: Path | None = None,
    stop: StopRequest | None = None,
) -> int:
    """Train this process's student; the exit code of its run.

    ``students`` as ``load_students`` gives them; ``stop``: signals that are noted already. Raises ConfigError when
    another number of processes was started.
    """
    if resume_from is not None:
        raise ConfigError(
            "command line", "--resume-from", f"does not go with {BLOCK}: all students go on from one step"
        )
    if RunFolder(out).checkpoints.exists():
        raise ConfigError(str(out), "", "holds a run of a single model: use another --output-dir")
    wanted, started = sum(len(student.ranks) for student in students), int(os.environ.get("WORLD_SIZE", "1"))
    if started != wanted:
        raise ConfigError(
            "config",
            f"{BLOCK}.students",
            f"{started} process{'es' * (started > 1)} started, the ranges are for {wanted}: torchrun --nproc-per-node {wanted}",
        )
    refuse_strangers(students, out, resume=resume)
    train = students[0].cfg.train
    number = int(os.environ.get("RANK", "0"))
    own = next(student for student in students if number in student.ranks)
    if len(students) == 1:
        return run(PretrainingJob(own.cfg, RunFolder(out / own.name)), resume=resume, stop=stop)
    device = choose_device(train.device)
    peers = join([s.ranks for s in students], device, train.watchdog_slow_seconds + 300, own.name)
    job = PretrainingJob(own.cfg, RunFolder(out / own.name), peers)
    return run(job, resume=resume, stop=stop, title=f"student    {own.name}, {place(own, students)}")


def refuse_strangers(students: Sequence[Student], out: Path, *, resume: bool) -> None:
    """ConfigError for a student that has not begun in a folder where others have: it would take them back to step 0."""
    begun = {folder.name for folder in student_folders(out) if step_folders(folder)}
    new = [student.name for student in students if not RunFolder(out / student.name).config_json.exists()]
    if resume and begun and new:
        problem = (
            f"{new[0]} has not begun in {out}, {' and '.join(sorted(begun))} did: give it its old name, use another"
        )
        raise ConfigError("config", f"{BLOCK}.students", f"{problem} --output-dir, or begin again with --no-resume")


def place(own: Student, students: Sequence[Student]) -> str:
    """For the start-up block."""
    number, last = 1 + list(students).index(own), own.ranks[-1]
    which = f"process {last}" if len(own.ranks) == 1 else f"processes {own.ranks[0]} to {last}"
    return f"{number} of {len(students)} that share the teacher's pass, {which}"
