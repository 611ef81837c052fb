"""When the state is saved, what is done when that fails, and what it costs."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dinov3 import __version__
from dinov3.config.derived import largest_global_crop
from dinov3.distributed import siblings
from dinov3.distributed.agreement import on_every
from dinov3.distributed.context import is_main, second_group, world_size
from dinov3.runs.checkpoint import Checkpointer, CheckpointError, Saved, step_folders, step_of
from dinov3.runs.snapshot import Snapshot
from dinov3.runs.state import first_not_finite, training_tensors
from dinov3.train.loop import NonFiniteAbort, Training
from dinov3.weights.own import write_backbone
from dinov3.weights.pretrained import as_json

log = logging.getLogger(__name__)


class Saver:
    """Commits the state of a run between two steps or, with ``checkpointing.async_save``, a copy of it beside the next ones.

    At most one save is under way.
    """

    def __init__(self, training: Training, out: Path) -> None:
        self.training = training
        keep, patience = training.cfg.checkpointing, training.cfg.train.watchdog_slow_seconds + 300
        self.checkpointer = Checkpointer(
            out,
            max_to_keep=keep.max_to_keep,
            keep_every=keep.keep_every,
            group=second_group(patience) if keep.async_save else None,
        )
        self.checkpointer.tidy(None)  # older checkpoints go with the next save: the config may be a mistake
        self._snapshot = Snapshot()
        self._blocked = 0.0  # seconds that training has waited for the save beside it
        self._warned = False
        training.on_saved = self.collect

    def save(self, *, must: bool) -> None:
        """Save; a failure ends the run when this ``must`` work or ``checkpointing.on_error`` says so.

        What ``must`` work is committed on return. Raises CheckpointError, also for the save before when it was beside
        training, and NonFiniteAbort for a state that holds a nan or inf: it is never committed.
        """
        run = self.training
        self.collect(on_failure="the state is saved again now" if must else None)
        run.watchdog.beat(f"saving step {run.counters.step}", slow=True)
        began = time.perf_counter()
        if run.cfg.checkpointing.async_save and not must:
            run.saving.start(f"the save of step {run.counters.step}", self._prepared(copy=True))
            self._blocked = time.perf_counter() - began
            return
        commit = self._prepared(copy=False)
        try:
            saved = commit()
        except CheckpointError as error:
            self._failed(error, end=must or run.cfg.checkpointing.on_error == "abort")
            return
        self._succeeded(saved, time.perf_counter() - began)

    def spare_what_others_need(self) -> None:
        """Keep every checkpoint from the newest on that all students have. Every process of all must call it at one step."""
        if siblings.current() is None:
            return
        folders = step_folders(self.checkpointer.folder.parent) if is_main() else []
        newest = step_of(folders[-1]) if folders else 0
        self.checkpointer.needed_from = min(siblings.numbers(newest if is_main() else math.inf))

    def collect(self, *, on_failure: str | None = None) -> None:
        """Take the result of the save beside training, if there is one, when it has ended.

        Every process must call it after the same step. Raises CheckpointError as ``save`` does; with
        ``on_failure``, which says what follows, it only warns.
        """
        run = self.training
        if not run.saving.busy:
            return
        title, began = run.saving.title, time.perf_counter()
        if waits := not run.saving.ended and is_main():
            log.info("step %d waits for %s", run.counters.step, title)
        run.watchdog.beat(f"waiting for {title}", slow=True)
        try:
            saved = run.saving.result()
        except CheckpointError as error:
            if on_failure is not None:
                log.warning("%s; %s", error, on_failure)
                return
            self._failed(error, end=run.cfg.checkpointing.on_error == "abort")
            return
        waited = time.perf_counter() - began
        if waits:
            log.info("waited %.2f s for %s", waited, title)
        self._succeeded(saved, self._blocked + waited)

    def close(self) -> None:
        """Finish the save beside training, if there is one: an error is ending the run."""
        try:
            self.collect(on_failure="the run is ending")
        except RuntimeError as error:  # the other processes are gone; the error that ends the run is the one to raise
            log.warning("the save beside training was not finished: %s", error)

    def _failed(self, error: CheckpointError, *, end: bool) -> None:
        if end:
            raise error
        log.warning(
            "%s; training goes on, the next try is after %d steps", error, self.training.cfg.checkpointing.period
        )

    def _succeeded(self, saved: Saved, blocked: float) -> None:
        self.training.figures |= {
            "checkpoint_seconds": saved.seconds,
            "checkpoint_blocked_seconds": blocked,
            "checkpoint_bytes": saved.size,
        }
        if is_main():
            self._report(saved, blocked)

    def _prepared(self, *, copy: bool) -> Callable[[], Saved]:
        """The save of this step. Of a ``copy`` of the state it may run in another thread while training goes on."""
        run, cfg, model = self.training, self.training.cfg, self.training.model
        tensors = training_tensors(model, model.checkpoint_state(), run.optimizer)
        for name in on_every(lambda: first_not_finite(tensors)):
            if name is not None:
                raise NonFiniteAbort(
                    f"step {run.counters.step}: {name} holds values that are not finite; this state is not saved: "
                    "run the same command to continue from the last checkpoint"
                )
        preprocess = {"mean": cfg.crops.rgb_mean, "std": cfg.crops.rgb_std, "size": largest_global_crop(cfg)}
        info = {
            "counters": dataclasses.asdict(run.counters),
            "global_batch": run.global_batch,
            "world_size": world_size(),
            "dataset": run.dataset,
            "resumed_from": run.resumed_from,
            "pretrained": as_json(model.pretrained),
            "versions": {"dinov3": __version__, "torch": torch.__version__},
        }
        backbone = model.whole_ema_backbone("cpu", copy=copy)
        if copy:
            tensors = self._snapshot.take(tensors)
        step, device = run.counters.step, model.precision.device

        def write_extras(folder: Path) -> None:
            assert backbone is not None  # this is the main process
            write_backbone(folder, backbone, preprocess)

        def commit() -> Saved:
            if device.type == "cuda":
                torch.cuda.set_device(
                    device
                )  # a new thread starts on GPU 0, where the checkpoint library looks for a stream
            return self.checkpointer.save(step, tensors, info, write_extras)

        return commit

    def _report(self, saved: Saved, blocked: float) -> None:
        run, keep = self.training, self.training.cfg.checkpointing
        log.info(
            "%s: %.1f MB in %.2f s, training waited %.2f s", saved.folder, saved.size / 1e6, saved.seconds, blocked
        )
        # from the signal to the end: the step under way, a save that has just begun beside it, the save of this step
        saves = 2 if keep.async_save else 1
        needed = run.step_seconds + saves * saved.seconds
        if needed > keep.preemption_notice and not self._warned:
            self._warned = True
            log.warning(
                "a step and %s take %.0f s, longer than checkpointing.preemption_notice (%.0f s): a run that is told to stop may be "
                "killed before it is saved; ask the cluster for a longer notice (SLURM: --signal)",
                "two checkpoints (checkpointing.async_save)" if saves == 2 else "a checkpoint",
                needed,
                keep.preemption_notice,
            )
