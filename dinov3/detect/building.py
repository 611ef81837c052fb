"""From a config and where a run starts to a detector ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from dinov3.detect.config import DetectConfig
from dinov3.detect.detector import Detector, HeadShape, build_head
from dinov3.detect.detector_file import PRODUCT, About
from dinov3.detect.metric import check_installed
from dinov3.detect.views import Views
from dinov3.finetune.headed.building import check_multiple, load_start
from dinov3.runs.start import Start
from dinov3.weights.provenance import Facts


@dataclass
class Built:
    """A detector with what its files say of it."""

    detector: Detector
    cfg: DetectConfig
    classes: list[str]
    facts: Facts
    pretrained: dict[str, Any] | None
    lines: list[str] = field(default_factory=list)

    def about(self, step: int) -> About:
        cfg, model = self.cfg, self.cfg.model
        return About(
            classes=self.classes,
            frozen=model.frozen,
            upscale=model.upscale,
            levels=model.levels,
            width=model.width,
            depth=model.depth,
            side=cfg.augment.side,
            least_score=cfg.evaluation.least_score,
            overlap=cfg.evaluation.overlap,
            weights=model.weights,
            step=step,
        )

    @property
    def views(self) -> Views:
        low, high = self.cfg.augment.scale
        return views_of(self.facts.preprocess, self.cfg.augment.side, (low, high))


def views_of(preprocess: dict[str, Any], side: int, scale: tuple[float, float] = (1.0, 1.0)) -> Views:
    """How the backbone whose file says ``preprocess`` is fed."""
    return Views(tuple(preprocess["mean"]), tuple(preprocess["std"]), side, scale)


def build_detector(cfg: DetectConfig, start: Start, classes: list[str]) -> Built:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    check_installed()
    model, loaded = cfg.model, load_start(cfg.model, start)
    check_multiple("augment.side", cfg.augment.side, loaded.backbone.stride)
    head = build_head(HeadShape(len(classes), model.upscale, model.levels, model.width, model.depth), loaded.backbone)
    head.init_weights(torch.Generator().manual_seed(cfg.train.seed))
    if loaded.head is not None:
        PRODUCT.read_head(head, loaded.head)
    facts = loaded.facts(f"detector, {len(classes)} classes of objects", cfg.augment.side, cfg.data)
    detector = Detector(loaded.backbone, head, frozen=model.frozen)
    return Built(detector, cfg, classes, facts, loaded.pretrained, loaded.lines)
