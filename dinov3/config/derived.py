"""Values that follow from several keys, computed in one place."""

from __future__ import annotations

from dinov3.config.schema import Config

DA3_PATCH = 14  # px


def images_per_process(cfg: Config) -> int:
    """Images of one optimizer step on one process."""
    return cfg.train.batch_size_per_gpu * cfg.train.gradient_accumulation_steps


def statistics_batch(cfg: Config) -> int:
    """Images of one process that losses see together."""
    return images_per_process(cfg) if cfg.train.accumulation == "exact" else cfg.train.batch_size_per_gpu


def da3_input_size(cfg: Config) -> int:
    """Side of the clean crops Depth Anything 3 is shown, in px.

    ``da3.teacher_size``, or what gives its grid of 14 px patches the student's size (256 / 16 = 224 / 14 = 16); with
    ``da3.grid_mode: interpolate_tokens`` the multiple of 14 nearest below the student's crop.
    """
    size, patch = cfg.crops.global_crops_size, cfg.student.patch_size
    if cfg.da3.teacher_size is not None:
        return cfg.da3.teacher_size
    if cfg.da3.grid_mode == "interpolate_tokens":
        return max(size // DA3_PATCH, 1) * DA3_PATCH
    return size // patch * DA3_PATCH


def clean_crop_size(cfg: Config) -> int | None:
    """Side of the clean global crops in px, None when nobody wants them."""
    if cfg.da3.enabled:
        return da3_input_size(cfg)
    return (cfg.crops.global_crops_clean_size or cfg.crops.global_crops_size) if cfg.crops.global_crops_clean else None
