"""Ends of a run before its last step: a signal, or an evaluation below a limit. Both save first."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from dinov3.distributed import context, siblings
from dinov3.distributed.collectives import all_reduce_max, broadcast_object
from dinov3.runs.metrics import read_metrics
from dinov3.runs.requeue import RESERVE, STAYS, next_turn
from dinov3.runs.signals import Asked
from dinov3.train.forgetting import reason_to_stop
from dinov3.train.loop import Training
from dinov3.train.saving import Saver

log = logging.getLogger("dinov3")


def forgotten(training: Training, out: Path) -> str | None:
    """Why this step's evaluation asks to stop, on every process; None when it does not, or there was none."""
    rows = read_metrics(out / "evaluation.jsonl") if context.is_main() else []
    now = rows and rows[-1]["step"] == training.counters.step
    reason = broadcast_object(reason_to_stop(training.cfg, rows) if now else None)
    if reason is not None and siblings.current():
        reason = f"{out.name}: {reason}"
    return next((text for text in siblings.texts(reason) if text is not None), None)


def stop_forgetting(training: Training, saver: Saver, reason: str) -> None:
    """Save and end; the same command comes to the same end until the limit is changed."""
    step = training.counters.step
    saver.collect(on_failure="the state is saved again now")
    saver.save(must=True)
    training.progress.close()
    if context.is_main():
        print(f"\nstopped at step {step}, saved: {reason}; change that key to go on from here", flush=True)
        log.info("stopped at step %d: %s", step, reason)


def stop_here(training: Training) -> None:
    """The state is saved and a signal, perhaps another process's, asked to stop: another turn if it is to have one."""
    stop = training.stop
    asked = torch.tensor(float(stop.asked), device=training.model.precision.device)
    asked_of_all = Asked(int(max(siblings.numbers(float(all_reduce_max(asked))))))
    least = -max(siblings.numbers(float(all_reduce_max(-asked))))
    if (
        asked_of_all == Asked.SIGTERM and least == Asked.NOBODY
    ):  # a person tells all processes, a late signal of SLURM one machine
        asked_of_all = Asked.THE_SCHEDULER
    training.watchdog.beat("asking for another turn", slow=True)
    if context.is_main():
        until = stop.since + training.cfg.checkpointing.preemption_notice - RESERVE
        what_next = next_turn(asked_of_all, max(until, time.monotonic())) if siblings.is_first() else STAYS
        name = stop.signal_name or "a signal to another process"
        print(f"\n{name}: saved at step {training.counters.step}; {what_next}", flush=True)
    if training.records is not None:
        training.records.close()
    siblings.barrier()  # srun ends all processes as soon as one of them has
