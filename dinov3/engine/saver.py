"""When the state is saved, what is done when that fails, and what it costs."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from dinov3 import __version__
from dinov3.config.run_config import RunConfig
from dinov3.distributed.agreement import every_process
from dinov3.distributed.context import is_main, second_group, world_size
from dinov3.distributed.peers import Peers
from dinov3.engine.save_plan import SavePlan
from dinov3.runs.background import Background
from dinov3.runs.checkpoint import Checkpointer, Saved
from dinov3.runs.folder import RunFolder
from dinov3.runs.snapshot import Snapshot
from dinov3.runs.state import first_not_finite, training_tensors
from dinov3.runs.step_folders import CheckpointError, step_folders, step_of
from dinov3.system.errors import EXIT_NON_FINITE, Foreseeable

if TYPE_CHECKING:
    from dinov3.engine.trainer import Trainer

log = logging.getLogger(__name__)


class NotFiniteState(Foreseeable):
    """The state holds a nan or inf, which is never saved."""

    code = EXIT_NON_FINITE


class Saver:
    """Commits the state of a run between two steps or, with ``checkpointing.async_save``, a copy of it beside the next ones.

    At most one save is under way. ``facts``: what every checkpoint of this start says beside its tensors.
    """

    def __init__(self, cfg: RunConfig, run: RunFolder, plan: SavePlan, peers: Peers, facts: dict[str, Any]) -> None:
        self.cfg, self.plan, self.peers, self.facts = cfg, plan, peers, facts
        keep, patience = cfg.checkpointing, cfg.train.watchdog_slow_seconds + 300
        self.checkpointer = Checkpointer(
            run.path,
            max_to_keep=keep.max_to_keep,
            keep_every=keep.keep_every,
            group=second_group(patience) if keep.async_save else None,
        )
        self.checkpointer.tidy(None)  # older checkpoints go with the next save: the config may be a mistake
        self._saving: Background[Saved] = Background()  # the save beside training
        self._snapshot = Snapshot()
        self._figures: dict[str, float] = {}  # to go into the next line of metrics
        self._blocked = 0.0  # seconds that training has waited for the save beside it
        self._warned = False

    @property
    def ended(self) -> bool:
        """The save beside training has ended on this process, its result is to be collected."""
        return self._saving.ended

    def take_figures(self) -> dict[str, float]:
        """What the last save cost, once."""
        figures, self._figures = self._figures, {}
        return figures

    def save(self, run: Trainer[Any], *, must: bool) -> None:
        """Save; a failure ends the run when this ``must`` work or ``checkpointing.on_error`` says so.

        What ``must`` work is committed on return. Raises CheckpointError, also for the save before when it was beside
        training, and NotFiniteState for a state that holds a nan or inf: it is never committed.
        """
        self.collect(run, on_failure="the state is saved again now" if must else None)
        run.watchdog.beat(f"saving step {run.counters.step}", slow=True)
        began = time.perf_counter()
        if self.cfg.checkpointing.async_save and not must:
            self._saving.start(f"the save of step {run.counters.step}", self._prepared(run, copy=True))
            self._blocked = time.perf_counter() - began
            return
        commit = self._prepared(run, copy=False)
        try:
            saved = commit()
        except CheckpointError as error:
            self._failed(error, end=must or self.cfg.checkpointing.on_error == "abort")
            return
        self._succeeded(run, saved, time.perf_counter() - began)

    def spare_what_others_need(self) -> None:
        """Keep every checkpoint from the newest step that all students have saved. Every process of all must call it at one step."""
        if not self.peers.several:
            return
        folders = step_folders(self.checkpointer.folder.parent) if is_main() else []
        newest = step_of(folders[-1]) if folders else 0
        self.checkpointer.needed_from = min(self.peers.numbers(newest if is_main() else math.inf))

    def collect(self, run: Trainer[Any], *, on_failure: str | None = None) -> None:
        """Take the result of the save beside training, if there is one, when it has ended.

        Every process must call it after the same step. Raises CheckpointError as ``save`` does; with
        ``on_failure``, which says what follows, it only warns.
        """
        if not self._saving.busy:
            return
        title, began = self._saving.title, time.perf_counter()
        if waits := not self._saving.ended and is_main():
            log.info("step %d waits for %s", run.counters.step, title)
        run.watchdog.beat(f"waiting for {title}", slow=True)
        try:
            saved = self._saving.result()
        except CheckpointError as error:
            if on_failure is not None:
                log.warning("%s; %s", error, on_failure)
                return
            self._failed(error, end=self.cfg.checkpointing.on_error == "abort")
            return
        waited = time.perf_counter() - began
        if waits:
            log.info("waited %.2f s for %s", waited, title)
        self._succeeded(run, saved, self._blocked + waited)

    def close(self, run: Trainer[Any]) -> None:
        """Finish the save beside training, if there is one: an error is ending the run."""
        try:
            self.collect(run, on_failure="the run is ending")
        except RuntimeError as error:  # the other processes are gone; the error that ends the run is the one to raise
            log.warning("the save beside training was not finished: %s", error)

    def _failed(self, error: CheckpointError, *, end: bool) -> None:
        if end:
            raise error
        log.warning("%s; training goes on, the next try is after %d steps", error, self.cfg.checkpointing.period)

    def _succeeded(self, run: Trainer[Any], saved: Saved, blocked: float) -> None:
        self._figures |= {
            "checkpoint_seconds": saved.seconds,
            "checkpoint_blocked_seconds": blocked,
            "checkpoint_bytes": saved.size,
        }
        if is_main():
            self._report(run, saved, blocked)

    def _prepared(self, run: Trainer[Any], *, copy: bool) -> Callable[[], Saved]:
        """The save of this step. Of a ``copy`` of the state it may run in another thread while training goes on."""
        task = run.task
        tensors = training_tensors(task.model, task.state(), run.optimizer)
        for name in every_process(lambda: first_not_finite(tensors)):
            if name is not None:
                raise NotFiniteState(
                    f"step {run.counters.step}: {name} holds values that are not finite; this state is not saved: "
                    "run the same command to continue from the last checkpoint"
                )
        info = {
            "counters": dataclasses.asdict(run.counters),
            "global_batch": run.batch,
            "world_size": world_size(),
            **self.facts,
            **task.facts(),
            "versions": {"dinov3": __version__, "torch": torch.__version__},
        }
        write_products = task.products(copy=copy)
        if copy:
            tensors = self._snapshot.take(tensors)
        step, device = run.counters.step, task.device

        def commit() -> Saved:
            if device.type == "cuda":
                torch.cuda.set_device(
                    device
                )  # a new thread starts on GPU 0, where the checkpoint library looks for a stream
            return self.checkpointer.save(step, tensors, info, write_products)

        return commit

    def _report(self, run: Trainer[Any], saved: Saved, blocked: float) -> None:
        keep = self.cfg.checkpointing
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
