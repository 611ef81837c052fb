"""What a pretraining run says of itself before its first step."""

from __future__ import annotations

from typing import cast

from dinov3.config.derived import crop_sizes
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.sources import Mixture, Source
from dinov3.data.sources.mixture import left_out_lines, title
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.trainer import Trainer
from dinov3.system.cores import usable_workers
from dinov3.train.accumulation import kept_logits
from dinov3.train.task import Pretraining
from dinov3.weights.names.translation import export_limits


def crops_line(cfg: Config) -> str:
    """``2 x 224 + 8 x 96 px``; of several resolutions each, with the share of the steps it gets."""
    rows = [
        f"2 x {sizes.global_size} + {cfg.crops.local_crops_number} x {sizes.local_size} px"
        + (f", Gram {sizes.gram_size}" if sizes.gram_size else "")
        + (f" ({sizes.share:.0%})" if sizes.share < 1 else "")
        for sizes in crop_sizes(cfg)
    ]
    return "; ".join(rows)


def lines(trainer: Trainer[CropBatch], cfg: Config, source: Source) -> list[str]:
    """Machine, data, crops and student of a run, in the units people think in."""
    model = cast(Pretraining, trainer.task).model
    chosen, wanted = model.precision, cfg.train.num_workers
    workers = usable_workers(wanted)
    few = f" (of {wanted}: one a core)" if workers < wanted else ""
    millions = sum(p.numel() for p in model.student["backbone"].parameters()) / 1e6
    kept = (
        f", keeps {kept_logits(cfg, chosen.dtype.itemsize) / 1e9:.1f} GB of logits"
        if cfg.train.accumulation == "exact"
        else ""
    )
    return [
        device_line(chosen.device, f"{chosen.name}: {chosen.reason}"),
        processes_line(trainer, f" ({cfg.train.accumulation}{kept})"),
        f"data       {title(cfg.train.dataset_path)}: {len(source):,} images, {workers} workers{few}",
        *[f"           {line}" for line in (source.table() if isinstance(source, Mixture) else [])],
        *[f"           {line}" for line in left_out_lines(source)],
        f"crops      {crops_line(cfg)}",
        f"student    {cfg.student.arch}, width {model.embed_dim}, {millions:.1f} M parameters",
        *[f"           {line}" for line in export_limits(cfg.student)],
    ]
