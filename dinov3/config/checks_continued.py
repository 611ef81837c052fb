"""What must hold between the keys of continued training."""

from __future__ import annotations

from collections.abc import Iterator

from dinov3.config.schema import Config

Problems = Iterator[tuple[str, str]]


def frozen_features_are_looked_at(cfg: Config) -> Problems:
    for name, block in (
        ("feature_anchor", cfg.feature_anchor),
        ("feature_distillation", cfg.feature_distillation),
    ):
        if not block.enabled:
            continue
        if not block.cls_weight and not block.patch_weight:
            yield f"{name}.cls_weight", f"0, and so is {name}.patch_weight: nothing is compared; set one above 0"
        masked = cfg.ibot.mask_sample_probability * cfg.ibot.mask_ratio_min_max[1]
        if block.tokens == "masked" and block.patch_weight and not masked:
            yield f"{name}.tokens", "masked, but no patch is ever masked: use all"
    if cfg.feature_distillation.enabled and not cfg.feature_distillation.checkpoint:
        yield "feature_distillation.checkpoint", "is empty: give the frozen backbone's run folder or weight file"


def frozen_blocks_exist(cfg: Config) -> Problems:
    if cfg.student.freeze_blocks and cfg.student.arch.startswith("convnext"):
        yield "student.freeze_blocks", f"{cfg.student.freeze_blocks} is for vision transformers: set it to 0"


def stop_rules_are_measured(cfg: Config) -> Problems:
    drift, knn = cfg.evaluation.drift, cfg.evaluation.knn
    if drift.stop_below is not None and not (drift.enabled and drift.period):
        yield "evaluation.drift.stop_below", "needs evaluation.drift.enabled=true and a period above 0"
    if knn.max_drop is not None and (knn.train is None or not knn.period):
        yield "evaluation.knn.max_drop", "needs evaluation.knn.train, .test and a period above 0"


KEEP_CHECKS = (frozen_features_are_looked_at, frozen_blocks_exist, stop_rules_are_measured)
