"""The training loop: everything that changes state is a line in ``train``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.config.derived import images_per_process
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.loader import CropLoader
from dinov3.distributed import siblings
from dinov3.distributed.collectives import all_reduce_mean, all_reduce_min
from dinov3.distributed.context import rank
from dinov3.distributed.shard import local
from dinov3.engine.optim import apply_schedules, clip_per_submodule
from dinov3.engine.schedules import Schedules, StepSchedule
from dinov3.runs.background import Background
from dinov3.runs.checkpoint import Saved
from dinov3.runs.faults import Point, hit
from dinov3.runs.metrics import ProgressLine
from dinov3.runs.records import Records
from dinov3.runs.signals import StopRequest
from dinov3.runs.watchdog import Watchdog
from dinov3.train.accumulation import accumulate
from dinov3.train.alarms import Alarms
from dinov3.train.debug_dump import write_dump
from dinov3.train.ssl_meta_arch import SSLMetaArch

log = logging.getLogger(__name__)


class NonFiniteAbort(Exception):
    """Too many steps in a row had a loss or gradient that is not finite."""


@dataclass
class Counters:
    """What a resumed run must know besides tensors. Positions are counted in images, so they survive a new batch size."""

    step: int = 0
    samples: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    jumped_steps: int = 0  # by data.skip_steps


@dataclass
class Training:
    """A run in progress."""

    cfg: Config
    model: SSLMetaArch
    optimizer: torch.optim.Optimizer
    schedules: Schedules
    loader: CropLoader
    records: Records | None  # None on all processes but the main one
    progress: ProgressLine
    alarms: Alarms | None  # on the main one
    stop: StopRequest
    watchdog: Watchdog
    out: Path  # the run folder
    dataset: str  # its fingerprint
    resumed_from: str | None  # the checkpoint that --resume-from gave, in this start or an earlier one
    global_batch: int  # images a step over all processes
    until: int  # the step the run ends at
    counters: Counters = field(default_factory=Counters)
    began: int = 0  # the first step of this start
    figures: dict[str, float] = field(default_factory=dict)  # to go into the next line of metrics
    step_seconds: float = 0.0  # of the last step
    saving: Background[Saved] = field(default_factory=Background)  # the save beside training
    on_saved: Callable[[], None] = lambda: None  # called after a step, once that save has ended on every process


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    loss: Tensor  # scalar
    terms: dict[str, Tensor | float]  # every loss term and gradient norm, by its name in metrics.jsonl
    taken: bool  # False: skipped, nothing has changed
    stop: bool  # a process was asked to stop
    saved: bool  # a save beside training has ended on every process


def train_step(
    model: SSLMetaArch,
    optimizer: torch.optim.Optimizer,
    now: StepSchedule,
    *batches: CropBatch,
    iteration: int,
    clip_grad: float | None,
    stop_requested: bool = False,
    save_ended: bool = False,
) -> StepResult:
    """The batches of one step through the model.

    The update is taken on all processes or, when anything is not finite, on none.
    """
    apply_schedules(optimizer, lr=now.lr, wd=now.wd, last_layer_lr=now.last_layer_lr)
    optimizer.zero_grad(set_to_none=True)
    model.before_step(iteration)
    loss, terms = accumulate(model, batches, teacher_temp=now.teacher_temp, iteration=iteration)
    if hit(Point.LOSS, iteration):
        loss = loss * torch.nan
    model.parallel.finish_backward(model.student)
    if hit(Point.GRADIENT, iteration):
        local(next(p.grad for p in model.student.parameters() if p.grad is not None)).view(-1)[:1] = torch.inf
    norms = clip_per_submodule(model.student, clip_grad)
    finite, stop, saved = _agree(loss, norms, stop_requested, save_ended)
    if finite:
        optimizer.step()
        model.after_step(iteration, now.momentum)
    return StepResult(loss, terms | {f"{name}_grad_norm": norm for name, norm in norms.items()}, finite, stop, saved)


def train(run: Training, until: int) -> bool:
    """Train up to step ``until`` (exclusive). False when a signal asked to stop first; the state is whole either way."""
    counters, cfg = run.counters, run.cfg
    window = _Window(run)
    loader = iter(run.loader)
    while counters.step < until:
        step, began = counters.step, time.perf_counter()
        # the first steps of a start may compile
        run.watchdog.beat(lambda: _occupation(run), slow=step < run.began + 2)
        batches = [next(loader) for _ in range(cfg.train.gradient_accumulation_steps)]
        if any(first <= step <= last for first, last in cfg.data.skip_steps):
            _jump(run)
            continue
        hit(Point.STEP, step)
        result = train_step(
            run.model,
            run.optimizer,
            run.schedules.at(step),
            *batches,
            iteration=step,
            clip_grad=cfg.optim.clip_grad,
            stop_requested=run.stop.signal_name is not None,
            save_ended=run.saving.ended,
        )
        if result.taken:
            counters.skipped_in_a_row = 0
        else:
            _count_skip(run, batches, result)
        counters.step += 1
        counters.samples += run.global_batch
        run.progress.step()
        if step % cfg.train.log_every == 0 or counters.step == run.until:
            _write_metrics(run, step, result, window.close(run))
        run.step_seconds = time.perf_counter() - began
        if result.saved:
            run.on_saved()
        if siblings.any_of(result.stop) and counters.step < run.until:
            return False
    return True


def _agree(loss: Tensor, norms: dict[str, Tensor], stop_requested: bool, save_ended: bool) -> tuple[bool, bool, bool]:
    """Whether loss and gradients are finite on every process, whether any process was asked to stop, and whether a save
    has ended on every one.

    This is the loop's one wait for the device.
    """
    finite = torch.stack([torch.isfinite(loss), *[torch.isfinite(n) for n in norms.values()]]).all().float()
    flags = [torch.full_like(finite, -float(stop_requested)), torch.full_like(finite, float(save_ended))]
    lowest = all_reduce_min(torch.stack([finite, *flags])).tolist()
    return lowest[0] > 0, lowest[1] < 0, lowest[2] > 0


def _occupation(run: Training) -> str:
    """What the process is at work on, for a report of a hang."""
    own = images_per_process(run.cfg)
    start = run.counters.samples + rank() * own
    positions = range(start, start + own)
    names = ", ".join(run.loader.names_at(positions))
    return f"step {run.counters.step}, samples {positions[0]} to {positions[-1]}: {names}"


def _jump(run: Training) -> None:
    """Pass a step of ``data.skip_steps``: its batch is drawn, nothing learns from it."""
    log.warning("step %d jumped over (data.skip_steps)", run.counters.step)
    run.counters.jumped_steps += 1
    run.counters.step += 1
    run.counters.samples += run.global_batch
    run.progress.step()


def _count_skip(run: Training, batches: Sequence[CropBatch], result: StepResult) -> None:
    counters, step = run.counters, run.counters.step
    counters.skipped_steps += 1
    counters.skipped_in_a_row += 1
    log.warning("step %d skipped: loss %s or its gradient is not finite", step, float(result.loss))
    if counters.skipped_in_a_row > run.cfg.nan.max_consecutive:
        images = run.loader.names_at([i for b in batches if b.sample_ids is not None for i in b.sample_ids.tolist()])
        figures = {"step": step, "samples": counters.samples, "total_loss": result.loss, **result.terms}
        dump = write_dump(run.out / "not_finite" / f"step-{step:08d}", run.model, batches, figures, images)
        raise NonFiniteAbort(
            f"{counters.skipped_in_a_row} steps in a row were not finite (nan.max_consecutive: {run.cfg.nan.max_consecutive}); "
            f"nothing was saved since they began, the last batch is in {dump.parent}: lower optim.lr, or jump over bad "
            "batches with data.skip_steps, then run the same command"
        )


class _Window:
    """Speed since the last logged step, or since training was taken up."""

    def __init__(self, run: Training) -> None:
        self._time, self._samples, self._wait = self._read(run)

    @staticmethod
    def _read(run: Training) -> tuple[float, int, float]:
        return time.perf_counter(), run.counters.samples, run.loader.wait_seconds

    def close(self, run: Training) -> dict[str, float]:
        now, samples, wait = self._read(run)
        elapsed = max(now - self._time, 1e-9)
        speed = {
            "images_per_second": (samples - self._samples) / elapsed,
            "data_wait": (wait - self._wait) / elapsed,
        }
        self._time, self._samples, self._wait = now, samples, wait
        return speed


def _write_metrics(run: Training, step: int, result: StepResult, speed: dict[str, float]) -> None:
    """One line of metrics.jsonl (means over processes) and the text of the progress bar."""
    terms = result.terms
    tensors = {k: v.detach().float() for k, v in terms.items() if isinstance(v, Tensor)}
    values = all_reduce_mean(torch.stack([result.loss.float(), *tensors.values()])).tolist()
    row: dict[str, Any] = {"iteration": step, "samples": run.counters.samples, "total_loss": values[0]}
    row |= {k: v for k, v in terms.items() if k not in tensors} | dict(zip(tensors, values[1:], strict=True))
    now = run.schedules.at(step)
    row |= {"lr": now.lr, "last_layer_lr": now.last_layer_lr, "wd": now.wd, "mom": now.momentum}
    row |= {"teacher_temp": now.teacher_temp, "skipped_steps": run.counters.skipped_steps, **speed, **run.figures}
    run.figures = {}
    if run.records is not None:
        run.records.write(row)
    for text in run.alarms.look(row) if run.alarms is not None else ():
        log.warning("%s", text)
    run.progress.describe(loss=values[0], images_per_second=speed["images_per_second"], data_wait=speed["data_wait"])
