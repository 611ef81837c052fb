"""What a run says before its first step."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from dinov3 import __version__
from dinov3.distributed import context

if TYPE_CHECKING:
    from dinov3.engine.job import Job
    from dinov3.engine.trainer import Trainer


def banner(trainer: Trainer[Any], job: Job[Any], done: list[str]) -> str:
    """What is about to happen, in the units people think in. ``done``: lines about the model."""
    counters = trainer.counters
    lines = [
        f"dinov3 {__version__} in {trainer.run}",
        *[f"  {line}" for line in job.banner(trainer)],
        *([] if trainer.peak is None else [f"  {trainer.peak.line()}"]),
        *[f"  {line}" for line in done],
        *[f"  {line}" for line in trainer.plan.table(trainer.batch, trainer.until).splitlines()],
    ]
    if counters.step:
        rate = trainer.plan.at(counters.step).lr  # more epochs raise it again
        seen = f"{counters.samples:,} images seen; the learning rate there is {rate:.3g}"
        lines.append(f"  resumed    at step {counters.step} of {trainer.until}, {seen}")
    return "\n".join(lines)


def device_line(device: torch.device, precision: str) -> str:
    """``device     cuda (NVIDIA H100), 8 threads, bf16: the GPU has bf16``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"device     {device.type} ({name}), {torch.get_num_threads()} threads, {precision}"


def processes_line(trainer: Trainer[Any], accumulation: str = "") -> str:
    """How the samples of a step are shared out; ``accumulation``: how parts of a step are put together."""
    train = trainer.cfg.train
    parts = train.gradient_accumulation_steps
    accumulated = f" x {parts} accumulated{accumulation}" if parts > 1 else ""
    return (
        f"processes  {context.world_size()}, batch {train.batch_size_per_gpu} each{accumulated}, "
        f"effective batch {trainer.batch}"
    )
