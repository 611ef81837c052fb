"""Values that follow from several keys, computed in one place."""

from __future__ import annotations

from typing import NamedTuple

from dinov3.config.schema import Config

DA3_PATCH = 14  # px
CONVNEXT_STRIDE = 32  # px


def images_per_process(cfg: Config) -> int:
    """Images of one optimizer step on one process."""
    return cfg.train.batch_size_per_gpu * cfg.train.gradient_accumulation_steps


def statistics_batch(cfg: Config) -> int:
    """Images of one process that losses see together."""
    return images_per_process(cfg) if cfg.train.accumulation == "exact" else cfg.train.batch_size_per_gpu


def fused(cfg: Config, device_type: str) -> bool:
    """Whether what ``compute_precision.fused`` names takes its fused form on a device of this type."""
    setting = cfg.compute_precision.fused
    return setting == "always" or (setting == "auto" and device_type == "cuda" and cfg.train.compile)


def skips_unread_tokens(cfg: Config, device_type: str) -> bool:
    """Whether the last block passes over tokens nobody reads, on a device of this type."""
    setting = cfg.compute_precision.unread_tokens
    compiled = device_type == "cuda" and cfg.train.compile
    return setting == "skip" or (setting == "auto" and not compiled)


class CropSizes(NamedTuple):
    """One resolution of training. Sides in px."""

    global_size: int
    local_size: int
    gram_size: int | None  # None: no crops for a Gram teacher
    share: float  # of all steps


def crop_sizes(cfg: Config) -> list[CropSizes]:
    """The resolutions a run draws from: items of the lists of sizes that belong together; a single size goes with all.

    ``crops.global_local_crop_pairs_ratios`` says how often each comes, one number for all: equally often.
    """
    crops = cfg.crops
    keys = (crops.global_crops_size, crops.local_crops_size, crops.gram_teacher_crops_size)
    n = max(len(value) if isinstance(value, list) else 1 for value in keys)
    global_, local, gram = (value if isinstance(value, list) else [value] * n for value in keys)
    ratios = crops.global_local_crop_pairs_ratios
    shares = ratios if isinstance(ratios, list) else [ratios] * n
    rows = zip(global_, local, gram, shares, strict=True)  # lengths were checked with the config
    return [CropSizes(g or 0, loc or 0, teacher, share / sum(shares)) for g, loc, teacher, share in rows]


def largest_global_crop(cfg: Config) -> int:
    """Side of the largest global crops, px: what a backbone of this run is made for."""
    return max(sizes.global_size for sizes in crop_sizes(cfg))


def da3_input_size(cfg: Config, global_size: int) -> int:
    """Side of the clean crops Depth Anything 3 is shown beside global crops of ``global_size``, in px.

    ``da3.teacher_size``, or what gives its grid of 14 px patches the student's size (256 / 16 = 224 / 14 = 16); with
    ``da3.grid_mode: interpolate_tokens`` the multiple of 14 nearest below the student's crop.
    """
    size, patch = global_size, cfg.student.patch_size
    if cfg.da3.teacher_size is not None:
        return cfg.da3.teacher_size
    if cfg.da3.grid_mode == "interpolate_tokens":
        return max(size // DA3_PATCH, 1) * DA3_PATCH
    return size // patch * DA3_PATCH


def clean_crop_size(cfg: Config, global_size: int) -> int | None:
    """Side of the clean copies of global crops of ``global_size`` px, in px; None when nobody wants them."""
    if cfg.da3.enabled:
        return da3_input_size(cfg, global_size)
    return (cfg.crops.global_crops_clean_size or global_size) if cfg.crops.global_crops_clean else None
