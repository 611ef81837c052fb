"""Several runs one after the other, from one YAML and with one command: each begins where the one before ended.

``RUN/stage-1-pretrain``, ``RUN/stage-2-gram``, … are ordinary run folders. A stage whose last checkpoint is there is
passed over, one that was interrupted goes on, one that has not begun starts from the end of the stage before it.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dinov3.config.derived import largest_global_crop
from dinov3.config.dump import to_dict
from dinov3.config.errors import EXIT_DONE, ConfigError
from dinov3.config.schema import Config
from dinov3.config.stages import EARLIER, Stage
from dinov3.data.errors import DataError
from dinov3.distributed import context
from dinov3.distributed.agreement import same_fate, same_on_all
from dinov3.engine.schedules import build_schedules
from dinov3.models.build import build_backbone
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot
from dinov3.runs.checkpoint import CheckpointError, newest_valid, step_folders, step_of
from dinov3.runs.lock import RunLock, RunLocked
from dinov3.runs.records import refuse_missing_packages
from dinov3.runs.signals import StopRequest
from dinov3.runs.stage_record import NAME as RECORD
from dinov3.runs.stage_record import StageRecord, read_stages, update_stage, write_stages
from dinov3.runs.student_folders import student_folders
from dinov3.train.after_kill import is_closed, is_tidy, tidy
from dinov3.train.dataset import checked_source
from dinov3.train.model import START_UP_ERRORS
from dinov3.train.resume import changed_keys, changed_since, find_start
from dinov3.train.run import put_aside, run

PATHS = (
    "start.run",
    "gram.ckpt",
    "train.output_dir",
    "train.max_steps",
    "resume.",
)  # say nothing about what was learnt


@dataclass(frozen=True)
class Planned:
    """A stage with what follows from where it is run."""

    name: str
    number: int
    cfg: Config  # no `stage:NAME` in it
    folder: Path
    steps: int
    before: Planned | None  # the stage whose end is its beginning
    newest: Path | None  # its newest whole checkpoint
    open: bool = False  # it was killed after its last save: its last evaluation or pictures are missing

    @property
    def reached(self) -> int:
        """Steps in that checkpoint; 0: none."""
        return step_of(self.newest) if self.newest else 0

    @property
    def finished(self) -> bool:
        return self.reached >= self.steps and not self.open


def run_stages(stages: Sequence[Stage], out: Path, *, resume: bool, resume_from: Path | None = None) -> int:
    """Run what is left of ``stages`` in the folder ``out``; the exit code of the stage that ended it.

    Every stage is checked before the first one starts. Arguments as for ``run``, which does a file without stages.
    """
    if begun := student_folders(out):
        raise ConfigError(str(out), "", f"holds a run of students, {begun[0].name} is one: use another --output-dir")
    if not stages[0].name:
        if (out / RECORD).is_file():
            raise ConfigError(str(out), "", "holds a run with stages: give its YAML, or another --output-dir")
        return run(stages[0].cfg, out, resume=resume, resume_from=resume_from)
    longest = max(stage.cfg.train.watchdog_slow_seconds for stage in stages)
    context.setup(stages[0].cfg.train.device, timeout=longest + 300)
    lock = RunLock(out)
    same_on_all(lock.refuse_if_held, RunLocked)
    plan = same_fate(lambda: plan_stages(stages, out, resume=resume), START_UP_ERRORS)
    opened = same_on_all(lambda: open_stages(plan), OSError)
    plan = [replace(stage, open=stage.name in opened) for stage in plan]
    redone = same_fate(lambda: find_redone(plan, out, resume_from), START_UP_ERRORS)
    same_fate(lambda: check_stages(plan, out, redone), START_UP_ERRORS)
    if resume and redone is None and same_on_all(lambda: nothing_is_left(plan, out), OSError):
        for stage in plan:
            say_finished(stage, len(plan))
        return EXIT_DONE
    with lock:
        if not resume:
            put_aside(out, [RECORD, *(stage.folder.name for stage in plan)])
        if redone is not None and resume_from is not None and find_start(redone.folder, resume_from).roll_back:
            later = [stage.folder.name for stage in plan if stage.number > redone.number]
            put_aside(out, later, "--resume-from")
            plan = [gone_back(stage, redone, resume_from) for stage in plan]
        context.barrier()
        if context.is_main():
            write_stages(out, records_of(plan, out))
        stop = StopRequest()  # one for all: a signal between two stages is not lost
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
        and not is_closed(stage.cfg, stage.folder, stage.newest)
    }


def nothing_is_left(plan: Sequence[Planned], out: Path) -> bool:
    """Whether every stage is finished, is noted as finished, and has nothing of a killed save in its folder."""
    done = [s.finished and s.newest is not None and is_tidy(s.cfg, s.folder, s.newest) for s in plan]
    return all(done) and (read_stages(out) == records_of(plan, out) or not os.access(out, os.W_OK))


def gone_back(stage: Planned, redone: Planned, checkpoint: Path) -> Planned:
    """A stage after ``--resume-from`` a checkpoint of ``redone``, whose later stages were moved aside."""
    if stage.number < redone.number:
        return stage
    return replace(stage, newest=checkpoint if stage.number == redone.number else None, open=False)


def run_stage(stage: Planned, count: int, out: Path, stop: StopRequest, resume_from: Path | None) -> int:
    """Run what is left of one stage and note its end."""
    if stage.finished and stage.newest is not None and resume_from is None:
        tidy(stage.cfg, stage.folder, stage.newest)
        say_finished(stage, count)
        return EXIT_DONE
    if context.is_main() and stage.before is not None and not step_folders(stage.folder):
        update_stage(out, stage.name, began_from=str(step_folders(stage.before.folder)[-1].relative_to(out)))
    context.barrier()
    title = f"stage      {title_of(stage, count)}"
    code = run(stage.cfg, stage.folder, resume=True, resume_from=resume_from, stop=stop, title=title)
    if code == EXIT_DONE and context.is_main():
        update_stage(out, stage.name, finished=True)
    gc.collect()  # the model of this stage: the next one needs its room
    if torch.cuda.is_available():
        torch.compiler.reset()  # else the next stage's models count as recompilations of this one's code
        torch.cuda.empty_cache()
    return code


def title_of(stage: Planned, count: int) -> str:
    """``2 of 3: gram``."""
    return f"{stage.number} of {count}: {stage.name}"


def say_finished(stage: Planned, count: int) -> None:
    """One line, with the keys that were changed since the stage began."""
    changed = changed_in(stage)
    note = f"; changed since, without effect on it: {', '.join(changed)}" if changed else ""
    if context.is_main():
        print(f"stage {title_of(stage, count)}: finished at step {stage.reached}{note}")


def changed_in(stage: Planned) -> list[str]:
    """The keys of a stage that were changed since it began."""
    return [key for key in changed_since(stage.cfg, stage.folder) if not key.startswith(PATHS)]


def plan_stages(stages: Sequence[Stage], out: Path, *, resume: bool) -> list[Planned]:
    """Folders, lengths, and how far each stage is. Raises as ``run`` does for what cannot be used, naming the stage."""
    plan: list[Planned] = []
    for stage in stages:
        folder = out / f"stage-{stage.number}-{stage.name}"
        with named(stage.name):
            schedules = build_schedules(stage.cfg, context.world_size())
            newest = newest_valid(folder) if resume else None
        before = next((p for p in plan if stage.cfg.start.run == EARLIER + p.name), None)
        plan.append(
            Planned(
                name=stage.name,
                number=stage.number,
                cfg=placed(stage, out, plan),
                folder=folder,
                steps=min(schedules.total_steps, stage.cfg.train.max_steps or schedules.total_steps),
                before=before,
                newest=newest,
            )
        )
    return plan


def placed(stage: Stage, out: Path, earlier: Sequence[Planned]) -> Config:
    """The stage's config with the run folder in place of every ``stage:NAME``, and a name of its own for its records."""
    cfg, folders = stage.cfg, {EARLIER + before.name: str(before.folder) for before in earlier}
    return replace(
        cfg,
        start=replace(cfg.start, run=folders.get(cfg.start.run, cfg.start.run)),
        gram=replace(cfg.gram, ckpt=folders.get(cfg.gram.ckpt or "", cfg.gram.ckpt)),
        wandb=replace(cfg.wandb, name=f"{cfg.wandb.name or out.resolve().name}-{stage.name}"),
    )


@contextlib.contextmanager
def named(stage: str) -> Iterator[None]:
    """Errors inside name the stage."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"stage {stage}", "", str(error)) from error
    except (DataError, CheckpointError) as error:
        raise type(error)(f"stage {stage}: {error}") from error


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


def check_stages(plan: Sequence[Planned], out: Path, redone: Planned | None) -> None:
    """All that can be known before the first stage starts: data, files, shapes, and what earlier starts have left."""
    if (out / "ckpt").exists():
        raise ConfigError(str(out), "", "holds a run without stages: use another --output-dir")
    check_record(plan, out, redone)
    for stage in plan:
        with named(stage.name):
            if stage.cfg.train.device != plan[0].cfg.train.device:
                problem = (
                    f"is {stage.cfg.train.device}, that of the first stage {plan[0].cfg.train.device}: make them equal"
                )
                raise ConfigError("", "train.device", problem)
            if not stage.finished:
                refuse_missing_packages(stage.cfg)
                checked_source(stage.cfg, context.world_size())
                check_files(stage.cfg, plan)
            if stage.before is not None:
                check_fit(stage.cfg, stage.before)


def check_record(plan: Sequence[Planned], out: Path, redone: Planned | None) -> None:
    """ConfigError when stages that have begun are not those of the plan, or did not begin where they now would."""
    recorded = {stage.folder: stage for stage in read_stages(out)}
    planned = {stage.folder.name for stage in plan}
    for folder in recorded:
        if folder not in planned and step_folders(out / folder):
            problem = f"has begun in {out}, and is not among the stages any more: use another --output-dir"
            raise ConfigError("config", "stages", f"{folder} {problem}")
    for stage in plan:
        if not stage.reached or stage.before is None or (redone and stage.number > redone.number):
            continue
        record, before = recorded.get(stage.folder.name), stage.before
        began = Path(record.began_from).name if record and record.began_from else f"step-{before.reached:08d}"
        if not before.finished or began != f"step-{before.reached:08d}":
            length = f"{before.steps} steps" if not before.finished else f"step {before.reached}"
            raise ConfigError(
                f"stage {stage.name}",
                "",
                f"began from {before.name}'s {began}, but {before.name} now ends at {length}: put the old length back, "
                f"or rename {stage.folder} so that it starts again",
            )


def check_files(cfg: Config, plan: Sequence[Planned]) -> None:
    """ConfigError for a file that a later stage would miss after days."""
    own = {str(stage.folder) for stage in plan}
    wanted = {
        "start.run": cfg.start.run,
        "gram.ckpt": cfg.gram.ckpt if cfg.gram.use_loss else None,
        "student.pretrained_weights": cfg.student.pretrained_weights,
        "student.resume_from_teacher_chkpt": cfg.student.resume_from_teacher_chkpt,
        "distillation.full_cfg_path": cfg.distillation.full_cfg_path if cfg.distillation.enabled else None,
        "distillation.checkpoint_path": cfg.distillation.checkpoint_path if cfg.distillation.enabled else None,
        "feature_distillation.checkpoint": cfg.feature_distillation.checkpoint
        if cfg.feature_distillation.enabled
        else None,
    }
    for key, path in wanted.items():
        if path and path not in own and not Path(path).exists():
            raise ConfigError("", key, f"{path}: no such file or folder")


def check_fit(cfg: Config, before: Planned) -> None:
    """ConfigError when the student or a head would not fit into the next stage's."""
    here, there = shapes(cfg), shapes(before.cfg)
    if wrong := [k for k in sorted({*here, *there}) if here.get(k) != there.get(k)]:
        parts = ("student.", "dino.head_", "ibot.head_")
        changes = changed_keys(to_dict(before.cfg), to_dict(cfg))
        keys = [f"{k} {old!r} -> {new!r}" for k, (old, new) in changes.items() if k.startswith(parts)]
        name = wrong[0]
        raise ConfigError(
            "",
            "start.run",
            f"cannot begin from {before.name}: {len(wrong)} tensor(s) differ, first {name}: {there.get(name, 'none')} there, "
            f"{here.get(name, 'none')} here; changed: {', '.join(keys) or 'nothing'}",
        )
    if before.cfg.lora.enabled and cfg.start.student == "student":
        raise ConfigError(
            "", "start.student", f"{before.name} trains LoRA adapters: set it to ema, which has them merged"
        )


def shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the student and its two heads; nothing is allocated."""
    with torch.device("meta"):
        backbone = build_backbone(cfg.student, img_size=largest_global_crop(cfg), drop_path=False)
        heads = [Dino(cfg, backbone.embed_dim).student_modules(), Ibot(cfg, backbone.embed_dim).student_modules()]
        student = nn.ModuleDict({"backbone": backbone, **heads[0], **heads[1]})
    return {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}


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
