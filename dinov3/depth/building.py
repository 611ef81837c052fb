"""From a config and where a run starts to an estimator ready to train."""

from __future__ import annotations

from dinov3.depth.config import DepthConfig
from dinov3.depth.estimator import Estimator, build_head
from dinov3.depth.estimator_file import PRODUCT, About
from dinov3.finetune.headed.building import Built, check_multiple, load_start
from dinov3.runs.start import Start


def about_of(cfg: DepthConfig) -> About:
    """What the file of an estimator says before the first step."""
    model, train, augment, evaluation = cfg.model, cfg.train, cfg.augment, cfg.evaluation
    return About(
        head=model.head,
        frozen=model.frozen,
        width=model.width,
        bins=model.bins,
        bin_rule=model.bin_rule,
        norm=model.norm,
        low=train.low,
        high=train.high,
        units=train.units,
        crop_height=augment.crop_height,
        crop_width=augment.crop_width,
        short_side=augment.short_side,
        flip=evaluation.flip,
        eigen=evaluation.eigen,
        weights=model.weights,
        step=0,
    )


def build_estimator(cfg: DepthConfig, start: Start) -> Built[Estimator, About]:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    model, loaded, about = cfg.model, load_start(cfg.model, start), about_of(cfg)
    for key, side in (("crop_height", about.crop_height), ("crop_width", about.crop_width)):
        check_multiple(f"augment.{key}", side, loaded.backbone.stride)
    head = build_head(about.shape, loaded.backbone, model.dropout)
    facts = loaded.facts(f"{model.head}, depth in {model.bins} bins", about.crop_height, cfg.data)
    return loaded.built(PRODUCT, Estimator(loaded.backbone, head, about.shape), about, cfg, facts)
