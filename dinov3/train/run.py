"""A run from its command line to its last checkpoint: set up, resume, train, evaluate, save."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dinov3 import __version__
from dinov3.config.derived import crop_sizes, images_per_process
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import EXIT_DONE, EXIT_FORGOTTEN, EXIT_PREEMPTED
from dinov3.config.schema import Config
from dinov3.data.bad_samples import BadSample, BadSampleLog
from dinov3.data.decode import fit_channels, read_image
from dinov3.data.errors import BadImage
from dinov3.data.loader import CropLoader
from dinov3.data.sources import DataError, Mixture, Source, open_dataset, parse_dataset
from dinov3.data.sources.mixture import title
from dinov3.data.sources.source import PartlyDamaged
from dinov3.distributed import context, siblings
from dinov3.engine.agreement import same_fate, same_on_all
from dinov3.engine.checkpoint import load_tensors, step_of
from dinov3.engine.lock import RunLock, RunLocked
from dinov3.engine.manifest import read_train_state
from dinov3.engine.metrics import ProgressLine
from dinov3.engine.optim import build_optimizer
from dinov3.engine.records import open_records, refuse_missing_packages
from dinov3.engine.schedules import Schedules, build_schedules
from dinov3.engine.signals import StopRequest
from dinov3.engine.state import allocate_optimizer_state, training_tensors
from dinov3.engine.watchdog import Watchdog
from dinov3.train import evidence
from dinov3.train.accumulation import kept_logits
from dinov3.train.alarms import ALARMS, Alarms
from dinov3.train.assembly import START_UP_ERRORS, build_model
from dinov3.train.ending import is_finished
from dinov3.train.inheritance import add_beginning, counters_after, take_over_moments
from dinov3.train.loop import Counters, Training, train
from dinov3.train.resume import Start, compare_with_start, find_start, roll_back
from dinov3.train.run_log import run_log
from dinov3.train.saving import Saver
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.stopping import forgotten, stop_forgetting, stop_here

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
    refuse_missing_packages(cfg)
    source = same_fate(lambda: checked_source(cfg, context.world_size()), START_UP_ERRORS)
    schedules = build_schedules(cfg, context.world_size())
    until = min(schedules.total_steps, cfg.train.max_steps or schedules.total_steps)
    lock = RunLock(out)
    same_on_all(lock.refuse_if_held, RunLocked)
    start = find_start(out, resume_from) if resume else Start()
    changes = same_fate(lambda: compare_with_start(cfg, out, start, source.fingerprint()), START_UP_ERRORS)
    if start.found and step_of(start.found) >= until and is_finished(cfg, out, start, until):
        if context.is_main():
            print(f"{out}: finished at step {step_of(start.found)}; the backbone is in {start.found}")
            evidence.print_last_line(cfg, out)
        return EXIT_DONE
    # before the folder: a file that cannot be read leaves nothing behind
    start = add_beginning(cfg, start)
    model, done = build_model(cfg, device, start)
    done = ([title] if title else []) + done
    done += [f"changed    {key}: {old!r} -> {new!r} since the start" for key, (old, new) in changes.items()]
    if model.head_warmup_steps >= until:
        done.append(f"heads      the run ends at step {until}, so the backbone never trains: lower head_warmup.steps")
    with lock:
        if not resume:
            put_aside(out)
        roll_back(out, start)
        context.barrier()
        with run_log(out):
            return _run_locked(cfg, out, source, schedules, model, until, start, changes, done, stop or StopRequest())


def _run_locked(
    cfg: Config,
    out: Path,
    source: Source,
    schedules: Schedules,
    model: SSLMetaArch,
    until: int,
    start: Start,
    changes: dict[str, tuple[Any, Any]],
    done: list[str],
    stop: StopRequest,
) -> int:
    prepare_folder(cfg, out, changes, fresh=not (out / "config.json").exists() or start.found is None)
    training = build(cfg, out, source, schedules, model, until, start, stop)
    if context.is_main():
        block = start_up_block(training, out, source, done)
        print(block, flush=True)  # before the first line of progress, in a file too
        log.info("%s", block)
    try:
        return train_and_save(training, out, until)
    finally:
        training.watchdog.close()
        training.loader.close()
        training.progress.close()
        if training.records is not None:
            training.records.close()


def checked_source(cfg: Config, world: int) -> Source:
    """The dataset, opened before anything is built or written; DataError when it cannot fill one batch.

    So are the data sets of the k-NN evaluation, which must have labels.
    """
    for text in (cfg.evaluation.knn.train, cfg.evaluation.knn.test):
        if text is not None and (labelled := parse_dataset(text)).label(0) is None:
            raise DataError(f"{text}: {labelled.name(0)} has no label: k-NN needs class subfolders or labels")
    source = open_dataset(cfg.train.dataset_path)
    batch = images_per_process(cfg) * world
    if len(source) < batch:
        raise DataError(
            f"{title(cfg.train.dataset_path)}: {len(source)} images, fewer than one batch of {batch}: "
            "lower train.batch_size_per_gpu (or train.gradient_accumulation_steps) or add images"
        )
    check_channels(cfg, source)
    return source


def check_channels(cfg: Config, source: Source) -> None:
    """Look at the first image that can be read. DataError when its channels do not fit ``student.in_chans``."""
    if isinstance(source, Mixture):
        for part in source.parts:
            check_channels(cfg, part)
        return
    for index in range(min(len(source), 10)):
        with contextlib.suppress(BadImage, OSError):  # the loader counts and records those
            fit_channels(read_image(source, index), cfg.student.in_chans)
            return


def record_damage(source: Source, bad_samples: BadSampleLog) -> None:
    """Name the files that are used only up to their damage."""
    if isinstance(source, PartlyDamaged) and context.is_main():
        for name, reason in source.damaged.items():
            bad_samples(BadSample(name, reason))


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


def prepare_folder(cfg: Config, out: Path, changes: dict[str, tuple[Any, Any]], *, fresh: bool) -> None:
    """The config; a resumed run with changed keys adds to ``config_history``.

    A ``fresh`` run writes its config even over one that is there: that run ended before its first checkpoint.
    """
    if not context.is_main():
        return
    if fresh:
        (out / "config.yaml").write_text(to_yaml(cfg))
        (out / "config.json").write_text(json.dumps(to_dict(cfg)))
    elif changes:
        history = out / "config_history"
        history.mkdir(exist_ok=True)
        number = 1 + len(list(history.glob("*.yaml")))
        (history / f"{number:04d}.yaml").write_text(to_yaml(cfg))


def build(
    cfg: Config,
    out: Path,
    source: Source,
    schedules: Schedules,
    model: SSLMetaArch,
    until: int,
    start: Start,
    stop: StopRequest,
) -> Training:
    """Optimizer and loader around the model, at the start of training or where a checkpoint left off."""
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    counters = Counters()
    if start.found is not None:
        load_tensors(training_tensors(model, model.checkpoint_state(), optimizer), start.found / "state")
        counters = Counters(**read_train_state(start.found)["counters"])
        counters.skipped_in_a_row = 0  # a new config may cure it; the run gets all its chances
    elif start.beginning is not None:
        counters = counters_after(start.beginning)
        if cfg.start.optimizer:
            take_over_moments(model, optimizer, start.beginning)
    workers = usable_workers(cfg.train.num_workers)
    bad_samples = BadSampleLog(out / "bad_samples.jsonl")
    record_damage(source, bad_samples)
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
    return Training(
        cfg=cfg,
        model=model,
        optimizer=optimizer,
        schedules=schedules,
        loader=loader,
        records=open_records(cfg, out, counters.step) if context.is_main() else None,
        progress=ProgressLine(until, counters.step, shown=siblings.is_first()),
        alarms=Alarms(cfg, out, schedules.total_steps) if context.is_main() else None,
        stop=stop,
        watchdog=Watchdog(
            out / "hang", seconds=cfg.train.watchdog_seconds, slow_seconds=cfg.train.watchdog_slow_seconds
        ),
        out=out,
        dataset=source.fingerprint(),
        resumed_from=start.resumed_from,
        global_batch=images_per_process(cfg) * context.world_size(),
        until=until,
        counters=counters,
        began=counters.step,
    )


def usable_workers(wanted: int) -> int:
    """At most one loader process a core of this training process; the batches do not depend on their number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def crops_line(cfg: Config) -> str:
    """``2 x 224 + 8 x 96 px``; of several resolutions each, with the share of the steps it gets."""
    rows = [
        f"2 x {sizes.global_size} + {cfg.crops.local_crops_number} x {sizes.local_size} px"
        + (f", Gram {sizes.gram_size}" if sizes.gram_size else "")
        + (f" ({sizes.share:.0%})" if sizes.share < 1 else "")
        for sizes in crop_sizes(cfg)
    ]
    return "; ".join(rows)


def start_up_block(training: Training, out: Path, source: Source, done: list[str]) -> str:
    """What is about to happen, in the units people think in."""
    cfg, model, counters = training.cfg, training.model, training.counters
    chosen, wanted = model.precision, cfg.train.num_workers
    workers = usable_workers(wanted)
    few = f" (of {wanted}: one a core)" if workers < wanted else ""
    millions = sum(p.numel() for p in model.student["backbone"].parameters()) / 1e6
    device = torch.cuda.get_device_name(chosen.device) if chosen.device.type == "cuda" else platform.machine()
    batch, each, parts = training.global_batch, cfg.train.batch_size_per_gpu, cfg.train.gradient_accumulation_steps
    kept = (
        f", keeps {kept_logits(cfg, chosen.dtype.itemsize) / 1e9:.1f} GB of logits"
        if cfg.train.accumulation == "exact"
        else ""
    )
    accumulated = f" x {parts} accumulated ({cfg.train.accumulation}{kept})" if parts > 1 else ""
    lines = [
        f"dinov3 {__version__} in {out}",
        f"  device     {chosen.device.type} ({device}), {torch.get_num_threads()} threads, {chosen.name}: {chosen.reason}",
        f"  processes  {context.world_size()}, batch {each} each{accumulated}, effective batch {batch}",
        f"  data       {title(cfg.train.dataset_path)}: {len(source):,} images, {workers} workers{few}",
        *[f"             {line}" for line in (source.table() if isinstance(source, Mixture) else [])],
        f"  crops      {crops_line(cfg)}",
        f"  student    {cfg.student.arch}, width {model.embed_dim}, {millions:.1f} M parameters",
        *[f"  {line}" for line in done],
        *[f"  {line}" for line in training.schedules.table(batch, training.until).splitlines()],
    ]
    if counters.step:
        lines.append(f"  resumed    at step {counters.step} of {training.until}, {counters.samples:,} images seen")
    return "\n".join(lines)


def train_and_save(training: Training, out: Path, until: int) -> int:
    """Train to the end, stopping to save and to look at the backbone when due."""
    with contextlib.closing(Saver(training, out)) as saver:
        return _train_and_save(training, saver, out, until)


def _train_and_save(training: Training, saver: Saver, out: Path, until: int) -> int:
    cfg, counters = training.cfg, training.counters
    period = cfg.checkpointing.period
    looks = cfg.evaluation
    periods = (period, looks.knn.period, looks.drift.period, looks.pictures_period)
    look(training, out)
    while counters.step < until:
        if reason := forgotten(training, out):
            stop_forgetting(training, saver, reason)
            evidence.draw(training, out)
            return EXIT_FORGOTTEN
        due = min(until, *(next_multiple(counters.step, p) for p in periods))
        finished = train(training, due)
        last = not finished or counters.step == until
        saver.spare_what_others_need()
        # in a streak of skipped steps the checkpoint before it is worth more than another one
        if last or (counters.step % period == 0 and not counters.skipped_in_a_row):
            saver.save(must=last)
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
