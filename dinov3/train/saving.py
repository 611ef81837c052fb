"""When the state is saved, what is done when that fails, and what it costs."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch

from dinov3 import __version__
from dinov3.config.derived import largest_global_crop
from dinov3.distributed.context import is_main, world_size
from dinov3.engine.agreement import on_every
from dinov3.engine.checkpoint import Checkpointer, CheckpointError, Saved
from dinov3.engine.export import write_backbone
from dinov3.engine.pretrained import as_json
from dinov3.engine.state import first_not_finite, training_tensors
from dinov3.train.loop import NonFiniteAbort, Training

log = logging.getLogger(__name__)


class Saver:
    """Commits the state of a run between two steps."""

    def __init__(self, training: Training, out: Path) -> None:
        self.training = training
        keep = training.cfg.checkpointing
        self.checkpointer = Checkpointer(out, max_to_keep=keep.max_to_keep, keep_every=keep.keep_every)
        self._warned = False

    def save(self, *, must: bool) -> None:
        """Save; a failure ends the run when this ``must`` work or ``checkpointing.on_error`` says so.

        Raises CheckpointError, and NonFiniteAbort for a state that holds a nan or inf: it is never committed.
        """
        run = self.training
        run.watchdog.beat(f"saving step {run.counters.step}", slow=True)
        try:
            saved = self._commit()
        except CheckpointError as error:
            if must or run.cfg.checkpointing.on_error == "abort":
                raise
            log.warning("%s; training goes on, the next try is after %d steps", error, run.cfg.checkpointing.period)
            return
        run.figures |= {"checkpoint_seconds": saved.seconds, "checkpoint_bytes": saved.size}
        if is_main():
            self._report(saved)

    def _commit(self) -> Saved:
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
        backbone = model.whole_ema_backbone("cpu")

        def write_extras(folder: Path) -> None:
            assert backbone is not None  # this is the main process
            write_backbone(folder, backbone, preprocess)

        return self.checkpointer.save(run.counters.step, tensors, info, write_extras)

    def _report(self, saved: Saved) -> None:
        notice = self.training.cfg.checkpointing.preemption_notice
        log.info("%s: %.1f MB in %.2f s", saved.folder, saved.size / 1e6, saved.seconds)
        if saved.seconds > notice and not self._warned:
            self._warned = True
            log.warning(
                "a checkpoint takes %.0f s, longer than checkpointing.preemption_notice (%.0f s): a run that is told to stop may be "
                "killed before it is saved; ask the cluster for a longer notice (SLURM: --signal)",
                saved.seconds,
                notice,
            )
