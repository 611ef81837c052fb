"""From a config and where a run starts to an estimator ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from dinov3.depth.config import DepthConfig
from dinov3.depth.estimator import Estimator, HeadShape, build_head
from dinov3.depth.estimator_file import PRODUCT, About
from dinov3.depth.stream import Feeding
from dinov3.finetune.headed.building import check_multiple, load_start
from dinov3.runs.start import Start
from dinov3.weights.provenance import Facts


@dataclass
class Built:
    """An estimator with what its files say of it."""

    estimator: Estimator
    cfg: DepthConfig
    facts: Facts
    pretrained: dict[str, Any] | None
    lines: list[str] = field(default_factory=list)

    def about(self, step: int) -> About:
        cfg, shape = self.cfg, self.estimator.shape
        return About(
            head=shape.kind,
            frozen=shape.frozen,
            width=shape.width,
            bins=shape.bins,
            bin_rule=shape.bin_rule,
            norm=shape.norm,
            low=shape.low,
            high=shape.high,
            units=cfg.train.units,
            crop_height=cfg.augment.crop_height,
            crop_width=cfg.augment.crop_width,
            short_side=cfg.augment.short_side,
            flip=cfg.evaluation.flip,
            eigen=cfg.evaluation.eigen,
            weights=cfg.model.weights,
            step=step,
        )

    @property
    def feeding(self) -> Feeding:
        return feeding_of(self.facts.preprocess, self.cfg.augment.short_side)


def feeding_of(preprocess: dict[str, Any], short_side: int) -> Feeding:
    """How the backbone whose file says ``preprocess`` is fed."""
    return Feeding(tuple(preprocess["mean"]), tuple(preprocess["std"]), short_side)


def build_estimator(cfg: DepthConfig, start: Start) -> Built:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    model, loaded = cfg.model, load_start(cfg.model, start)
    for key, side in (("crop_height", cfg.augment.crop_height), ("crop_width", cfg.augment.crop_width)):
        check_multiple(f"augment.{key}", side, loaded.backbone.stride)
    shape = HeadShape(
        model.head, model.frozen, model.width, model.bins, model.bin_rule, model.norm, cfg.train.low, cfg.train.high
    )
    head = build_head(shape, loaded.backbone, model.dropout)
    head.init_weights(torch.Generator().manual_seed(cfg.train.seed))
    if loaded.head is not None:
        PRODUCT.read_head(head, loaded.head)
    facts = loaded.facts(f"{model.head}, depth in {model.bins} bins", cfg.augment.crop_height, cfg.data)
    return Built(Estimator(loaded.backbone, head, shape), cfg, facts, loaded.pretrained, loaded.lines)
