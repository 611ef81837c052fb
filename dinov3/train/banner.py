"""What a run says before its first step."""

from __future__ import annotations

import platform

import torch

from dinov3 import __version__
from dinov3.config.derived import crop_sizes
from dinov3.config.schema import Config
from dinov3.data.sources import Mixture, Source
from dinov3.data.sources.mixture import title
from dinov3.distributed import context
from dinov3.train.accumulation import kept_logits
from dinov3.train.dataset import usable_workers
from dinov3.train.loop import Training


def crops_line(cfg: Config) -> str:
    """``2 x 224 + 8 x 96 px``; of several resolutions each, with the share of the steps it gets."""
    rows = [
        f"2 x {sizes.global_size} + {cfg.crops.local_crops_number} x {sizes.local_size} px"
        + (f", Gram {sizes.gram_size}" if sizes.gram_size else "")
        + (f" ({sizes.share:.0%})" if sizes.share < 1 else "")
        for sizes in crop_sizes(cfg)
    ]
    return "; ".join(rows)


def start_up_block(training: Training, source: Source, done: list[str]) -> str:
    """What is about to happen, in the units people think in. ``done``: lines about the model."""
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
        f"dinov3 {__version__} in {training.out}",
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
