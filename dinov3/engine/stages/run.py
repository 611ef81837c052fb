"""Several runs one after the other, from one YAML and with one command: each begins where the one before ended.

``RUN/stage-1-pretrain``, ``RUN/stage-2-gram``, … are ordinary run folders. A stage whose last checkpoint is there is
passed over, one that was interrupted goes on, one that has not begun starts from the end of the stage before it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dinov3.config.errors import ConfigError
from dinov3.config.stages import Stage
from dinov3.distributed import context
from dinov3.distributed.agreement import all_processes_or_none, main_decides
from dinov3.distributed.peers import ALONE
from dinov3.engine.after_kill import is_closed, is_tidy, tidy
from dinov3.engine.life import put_aside, run
from dinov3.engine.stages.checks import check_stages
from dinov3.engine.stages.plan import MakeJob, Planned, changed_in, plan_stages, title_of
from dinov3.runs.folder import STAGES, RunFolder
from dinov3.runs.lock import RunLock
from dinov3.runs.signals import StopRequest
from dinov3.runs.stage_record import StageRecord, read_stages, update_stage, write_stages
from dinov3.runs.start import find_start
from dinov3.runs.step_folders import step_folders
from dinov3.runs.student_folders import student_folders
from dinov3.system.errors import EXIT_DONE


def run_stages(
    stages: Sequence[Stage],
    out: Path,
    make: MakeJob,
    *,
    resume: bool,
    resume_from: Path | None = None,
    stop: StopRequest | None = None,
) -> int:
    """Run what is left of ``stages`` in the folder ``out``; the exit code of the stage that ended it.

    Every stage is checked before the first one starts. ``make``: the job of a stage. Other arguments as for ``run``,
    which does a file without stages.
    """
    if begun := student_folders(out):
        raise ConfigError(str(out), "", f"holds a run of students, {begun[0].name} is one: use another --output-dir")
    if not stages[0].name:
        if (out / STAGES).is_file():
            raise ConfigError(str(out), "", "holds a run with stages: give its YAML, or another --output-dir")
        return run(make(stages[0].cfg, RunFolder(out)), resume=resume, resume_from=resume_from, stop=stop)
    longest = max(stage.cfg.train.watchdog_slow_seconds for stage in stages)
    context.setup(stages[0].cfg.train.device, timeout=longest + 300)
    lock = RunLock(out)
    main_decides(lock.refuse_if_held)
    plan = all_processes_or_none(lambda: plan_stages(stages, out, make, resume=resume))
    opened = main_decides(lambda: open_stages(plan))
    plan = [replace(stage, open=stage.name in opened) for stage in plan]
    redone = all_processes_or_none(lambda: find_redone(plan, out, resume_from))
    all_processes_or_none(lambda: check_stages(plan, out, redone))
    if resume and redone is None and main_decides(lambda: nothing_is_left(plan, out)):
        for stage in plan:
            say_finished(stage, len(plan))
        return EXIT_DONE
    with lock:
        if not resume:
            put_aside(RunFolder(out), (STAGES, *(stage.folder.name for stage in plan)), "--no-resume")
        if redone is not None and resume_from is not None and find_start(redone.folder, resume_from, ALONE).roll_back:
            later = tuple(stage.folder.name for stage in plan if stage.number > redone.number)
            put_aside(RunFolder(out), later, "--resume-from")
            plan = [gone_back(stage, redone, resume_from) for stage in plan]
        context.barrier()
        if context.is_main():
            write_stages(out, records_of(plan, out))
        stop = stop or StopRequest()  # one for all: a signal between two stages is not lost
        stop.at_end(lock.forget)
        for stage in plan:
            again = redone is not None and stage.number == redone.number
            code = run_stage(stage, len(plan), out, stop, resume_from if again else None)
            if code != EXIT_DONE:
                return code
    return EXIT_DONE


def open_stages(plan: Sequence[Planned]) -> set[str]:
    """Stages that have their last checkpoint and not their last evaluation or pictures, because a kill came between.

    Only the last one that has begun, and only under the config it began with: the others are over.
    """
    begun = [stage for stage in plan if stage.newest is not None][-1:]
    return {
        stage.name
        for stage in begun
        if stage.newest is not None
        and stage.reached == stage.steps
        and not changed_in(stage)
        and not is_closed(stage.job, stage.newest)
    }


def nothing_is_left(plan: Sequence[Planned], out: Path) -> bool:
    """Whether every stage is finished, is noted as finished, and has nothing of a killed save in its folder."""
    done = [s.finished and s.newest is not None and is_tidy(s.job, s.newest) for s in plan]
    return all(done) and (read_stages(out) == records_of(plan, out) or not os.access(out, os.W_OK))


def gone_back(stage: Planned, redone: Planned, checkpoint: Path) -> Planned:
    """A stage after ``--resume-from`` a checkpoint of ``redone``, whose later stages were moved aside."""
    if stage.number < redone.number:
        return stage
    return replace(stage, newest=checkpoint if stage.number == redone.number else None, open=False)


def run_stage(stage: Planned, count: int, out: Path, stop: StopRequest, resume_from: Path | None) -> int:
    """Run what is left of one stage and note its end."""
    if stage.finished and stage.newest is not None and resume_from is None:
        tidy(stage.job, stage.newest)
        say_finished(stage, count)
        return EXIT_DONE
    if context.is_main() and stage.before is not None and not step_folders(stage.folder):
        update_stage(out, stage.name, began_from=str(step_folders(stage.before.folder)[-1].relative_to(out)))
    context.barrier()
    title = f"stage      {title_of(stage, count)}"
    code = run(stage.job, resume=True, resume_from=resume_from, stop=stop, title=title)
    if code == EXIT_DONE and context.is_main():
        update_stage(out, stage.name, finished=True)
    gc.collect()  # the model of this stage: the next one needs its room
    if torch.cuda.is_available():
        torch.compiler.reset()  # else the next stage's models count as recompilations of this one's code
        torch.cuda.empty_cache()
    return code


def say_finished(stage: Planned, count: int) -> None:
    """One line, with the keys that were changed since the stage began."""
    changed = changed_in(stage)
    note = f"; changed since, without effect on it: {', '.join(changed)}" if changed else ""
    if context.is_main():
        print(f"stage {title_of(stage, count)}: finished at step {stage.reached}{note}")


def find_redone(plan: Sequence[Planned], out: Path, resume_from: Path | None) -> Planned | None:
    """The stage that ``--resume-from`` goes back into; None without it."""
    if resume_from is None:
        return None
    path = resume_from.resolve()
    for stage in plan:
        if stage.folder.resolve() in path.parents:
            return stage
    raise ConfigError(
        "command line", "--resume-from", f"{resume_from} is in no stage of {out}: give one of its checkpoints"
    )


def records_of(plan: Sequence[Planned], out: Path) -> list[StageRecord]:
    """``stages.json`` for this plan, with what it knew of stages that have begun."""
    known = {stage.folder: stage for stage in read_stages(out)}
    records = []
    for stage in plan:
        before = known.get(stage.folder.name) if stage.reached and stage.folder.exists() else None
        records.append(
            StageRecord(
                name=stage.name,
                folder=stage.folder.name,
                steps=stage.steps,
                finished=stage.finished and stage.folder.exists(),
                began_from=before.began_from if before else None,
            )
        )
    return records
