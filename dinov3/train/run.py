"""A run from its command line to its last checkpoint: set up, resume, train, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinov3.config.derived import images_per_process
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.checks_continued import refuse_an_idle_backbone
from dinov3.config.errors import EXIT_DONE, EXIT_FORGOTTEN, EXIT_PREEMPTED, ConfigError
from dinov3.config.schema import Config
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.loader import CropLoader
from dinov3.data.sources import Source
from dinov3.distributed import context, siblings
from dinov3.distributed.agreement import one_fate, same_fate, same_on_all
from dinov3.runs.checkpoint import load_tensors, step_of
from dinov3.runs.lock import RunLock, RunLocked
from dinov3.runs.manifest import read_train_state
from dinov3.runs.metrics import ProgressLine
from dinov3.engine.optim import build_optimizer
from dinov3.runs.records import open_records, refuse_missing_packages
from dinov3.engine.schedules import Schedules, build_schedules
from dinov3.runs.signals import StopRequest
from dinov3.runs.state import allocate_optimizer_state, training_tensors
from dinov3.runs.watchdog import Watchdog
from dinov3.train import evidence
from dinov3.train.alarms import ALARMS, Alarms
from dinov3.train.model import START_UP_ERRORS, build_model
from dinov3.train.dataset import checked_source, record_damage, usable_workers
from dinov3.train.after_kill import is_finished
from dinov3.train.start_from import add_beginning, counters_after, take_over_moments
from dinov3.train.loop import Counters, Training, train
from dinov3.train.resume import Start, changed_batch, compare_with_start, find_start, roll_back
from dinov3.runs.run_log import run_log
from dinov3.train.saving import Saver
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.banner import start_up_block
from dinov3.train.early_stop import forgotten, stop_forgetting, stop_here

log = logging.getLogger("dinov3")
# Everything a run writes.
RUN_FILES = (
    *(
        "ckpt",
        "metrics.jsonl",
        "evaluation.jsonl",
        "drift_start.safetensors",
        "bad_samples.jsonl",
        "run.log",
        "pca.png",
        "curves.png",
    ),
    *(ALARMS, "pictures"),
    *("config.yaml", "config.json", "config_history", "not_finite", "hang"),
    *("run_id.json", "metrics.csv", "evaluation.csv", "tensorboard", "wandb"),
)
MEASURED = ("evaluation.jsonl", "evaluation.csv", "drift_start.safetensors")


@dataclass(frozen=True)
class Setup:
    """A run about to begin: its parts are checked, its folder is untouched."""

    cfg: Config
    out: Path
    source: Source
    schedules: Schedules
    until: int  # the step it ends at
    start: Start
    changes: dict[str, tuple[Any, Any]]  # keys that differ from the run's start: (old, new)


def run(
    cfg: Config,
    out: Path,
    *,
    resume: bool,
    resume_from: Path | None = None,
    stop: StopRequest | None = None,
    title: str = "",
) -> int:
    """Train ``cfg`` in the folder ``out``, continuing what is there unless ``resume`` is False.

    ``resume_from``: a checkpoint to continue from instead of the newest one. ``stop``: signals that are noted already.
    ``title``: which of several this is, a line of the start-up block. The process group stays, for the caller to leave.
    """
    device = context.setup(cfg.train.device, timeout=cfg.train.watchdog_slow_seconds + 300)
    lock = RunLock(out)
    setup = checked_run(cfg, out, lock, resume=resume, resume_from=resume_from)
    start, until = setup.start, setup.until
    if start.found and step_of(start.found) >= until and all_finished(setup):
        if resume_from is not None and step_of(start.found) > until:
            text = f"{resume_from} is at step {step_of(start.found)}, this run ends at {until}: give an earlier one"
            raise ConfigError("command line", "--resume-from", text)
        if context.is_main():
            print(f"{out}: finished at step {step_of(start.found)}; the backbone is in {start.found}")
            evidence.print_last_line(cfg, out)
        return EXIT_DONE
    # before the folder: a file that cannot be read leaves nothing behind
    setup = dataclasses.replace(setup, start=one_fate(lambda: add_beginning(cfg, start), START_UP_ERRORS))
    model, done = one_fate(lambda: build_model(cfg, device, setup.start), START_UP_ERRORS)
    done = ([title] if title else []) + done
    done += [f"changed    {key}: {old!r} -> {new!r} since the start" for key, (old, new) in setup.changes.items()]
    done += changed_batch(setup.start, images_per_process(cfg) * context.world_size())
    refuse_an_idle_backbone(cfg, heads_missing=model.heads_missing)
    with lock:
        if not resume:
            put_aside(out)
        elif setup.start.found is None:  # they are of weights that are gone, perhaps under another config
            put_aside(out, MEASURED, "what an earlier start without a checkpoint measured")
        roll_back(out, setup.start)
        context.barrier()
        with run_log(out):
            return _run_locked(setup, model, done, stop or StopRequest())


def checked_run(cfg: Config, out: Path, lock: RunLock, *, resume: bool, resume_from: Path | None) -> Setup:
    """Everything that can be known before a model is built. Raises, on every process, for what cannot be used."""

    def look() -> Source:
        refuse_missing_packages(cfg)
        source = same_fate(lambda: checked_source(cfg, context.world_size()), START_UP_ERRORS)
        same_on_all(lock.refuse_if_held, RunLocked)
        return source

    source = one_fate(look, (RunLocked, *START_UP_ERRORS))
    schedules = build_schedules(cfg, context.world_size())
    until = min(schedules.total_steps, cfg.train.max_steps or schedules.total_steps)
    start = find_start(out, resume_from) if resume else Start()

    def compare() -> dict[str, tuple[Any, Any]]:
        return same_fate(
            lambda: compare_with_start(cfg, out, start, source.fingerprint(), context.world_size()), START_UP_ERRORS
        )

    changes = one_fate(compare, START_UP_ERRORS)
    return Setup(cfg, out, source, schedules, until, start, changes)


def all_finished(setup: Setup) -> bool:
    """Whether nothing is left to do for a run that has its last checkpoint, nor for those that share its steps."""
    done = one_fate(lambda: is_finished(setup.cfg, setup.out, setup.start, setup.until), (RunLocked, *START_UP_ERRORS))
    return not siblings.any_of(not done)


def _run_locked(setup: Setup, model: SSLMetaArch, done: list[str], stop: StopRequest) -> int:
    prepare_folder(setup)
    training = build(setup, model, stop)
    if context.is_main():
        block = start_up_block(training, setup.source, done)
        print(block, flush=True)  # before the first line of progress, in a file too
        log.info("%s", block)
    try:
        return train_and_save(training, setup.out, setup.until)
    finally:
        training.watchdog.close()
        training.loader.close()
        training.progress.close()
        if training.records is not None:
            training.records.close()


def put_aside(out: Path, names: Iterable[str] = RUN_FILES, why: str = "--no-resume") -> None:
    """Rename what an earlier run left, so that nothing is lost and nothing is continued; ``why``: the option."""
    earlier = [out / name for name in names if (out / name).exists()]
    if not earlier or not context.is_main():
        return
    number = 1 + len(list(out.glob("before-*")))
    aside = out / f"before-{number}"
    aside.mkdir()
    for path in earlier:
        os.rename(path, aside / path.name)
    print(f"{why}: what was there before is now in {aside}")


def prepare_folder(setup: Setup) -> None:
    """The config; a resumed run with changed keys adds to ``config_history``.

    A run that begins writes its config even over one that is there: that run ended before its first checkpoint.
    """
    if not context.is_main():
        return
    cfg, out = setup.cfg, setup.out
    if setup.start.found is None or not (out / "config.json").exists():
        (out / "config.yaml").write_text(to_yaml(cfg))
        (out / "config.json").write_text(json.dumps(to_dict(cfg)))
    elif setup.changes:
        history = out / "config_history"
        history.mkdir(exist_ok=True)
        number = 1 + len(list(history.glob("*.yaml")))
        (history / f"{number:04d}.yaml").write_text(to_yaml(cfg))


def build(setup: Setup, model: SSLMetaArch, stop: StopRequest) -> Training:
    """Optimizer and loader around the model, at the start of training or where a checkpoint left off."""
    cfg, out, start, source = setup.cfg, setup.out, setup.start, setup.source
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    counters = take_up(setup, model, optimizer)
    bad_samples = BadSampleLog(out / "bad_samples.jsonl")
    record_damage(source, bad_samples)
    workers = usable_workers(cfg.train.num_workers)
    loader = CropLoader(
        dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, num_workers=workers)),
        source,
        position=counters.samples,
        rank=context.rank(),
        world_size=context.world_size(),
        device=model.precision.device,
        dtype=torch.float32,
        on_bad=bad_samples,
        timeout=cfg.train.watchdog_seconds / 2,  # first: it can name the image and the worker
    )
    slow = cfg.train.watchdog_slow_seconds
    return Training(
        cfg=cfg,
        model=model,
        optimizer=optimizer,
        schedules=setup.schedules,
        loader=loader,
        records=open_records(cfg, out, counters.step) if context.is_main() else None,
        progress=ProgressLine(setup.until, counters.step, shown=siblings.is_first()),
        alarms=Alarms(cfg, out, setup.schedules.total_steps) if context.is_main() else None,
        stop=stop,
        watchdog=Watchdog(out / "hang", seconds=cfg.train.watchdog_seconds, slow_seconds=slow),
        out=out,
        dataset=source.fingerprint(),
        resumed_from=start.resumed_from,
        global_batch=images_per_process(cfg) * context.world_size(),
        until=setup.until,
        counters=counters,
        began=counters.step,
    )


def take_up(setup: Setup, model: SSLMetaArch, optimizer: torch.optim.Optimizer) -> Counters:
    """Fill model and optimizer from where the run goes on or begins; how far it is."""
    start = setup.start
    if start.found is not None:
        load_tensors(training_tensors(model, model.checkpoint_state(), optimizer), start.found / "state")
        counters = Counters(**read_train_state(start.found)["counters"])
        counters.skipped_in_a_row = 0  # a new config may cure it; the run gets all its chances
        return counters
    if start.beginning is None:
        return Counters()
    if setup.cfg.start.optimizer:
        take_over_moments(model, optimizer, start.beginning)
    return counters_after(start.beginning)


def train_and_save(training: Training, out: Path, until: int) -> int:
    """Train to the end, stopping to save and to look at the backbone when due."""
    with contextlib.closing(Saver(training, out)) as saver:
        return _train_and_save(training, saver, out, until)


def _train_and_save(training: Training, saver: Saver, out: Path, until: int) -> int:
    cfg, counters = training.cfg, training.counters
    period = cfg.checkpointing.period
    looks = cfg.evaluation
    periods = (period, looks.knn.period, looks.drift.period, looks.pictures_period)
    owed = False  # a save that was due and not made, by this run or one that shares its steps
    look(training, out)
    while counters.step < until:
        if reason := forgotten(training, out):
            stop_forgetting(training, saver, reason)
            evidence.draw(training, out)
            siblings.barrier()  # torchrun ends all processes as soon as one has ended with an error
            return EXIT_FORGOTTEN
        due = counters.step + 1 if owed else min(until, *(next_multiple(counters.step, p) for p in periods))
        finished = train(training, due)
        last = not finished or counters.step == until
        saver.spare_what_others_need()
        wanted = last or owed or counters.step % period == 0
        # in a streak of skipped steps the checkpoint before it is worth more than another one
        streak = counters.skipped_in_a_row > 0 and not last
        if wanted and not streak:
            saver.save(must=last)
        if wanted and streak and not owed:
            log.warning(
                "step %d is not saved: its update was skipped; the next one that is taken will be", counters.step
            )
        owed = siblings.any_of(wanted and streak)
        if not finished:
            stop_here(training)
            return EXIT_PREEMPTED
        look(training, out)
    training.progress.close()
    training.watchdog.beat("drawing", slow=True)
    evidence.draw(training, out)
    if context.is_main():
        print(
            f"done: {counters.step} steps, {counters.samples:,} images; backbone in {saver.checkpointer.folder}/step-{counters.step:08d}"
        )
        evidence.print_last_line(cfg, out)
    return EXIT_DONE


def look(training: Training, out: Path) -> None:
    """Evaluate when due. The other processes wait here, not in the next step, whose time is limited."""
    training.watchdog.beat(f"evaluating step {training.counters.step}", slow=True)
    evidence.look(training, out)
    siblings.barrier()


def next_multiple(step: int, period: int) -> int:
    """The first multiple of ``period`` after ``step``; far away when the period is 0."""
    return (step // period + 1) * period if period > 0 else 2**62
