"""From a config and where a run starts to a segmenter ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from dinov3.config.errors import ConfigError
from dinov3.finetune.headed.building import check_multiple, load_start
from dinov3.runs.start import Start
from dinov3.segment.config import SegmentConfig, stride_of
from dinov3.segment.segmenter import HeadShape, Segmenter, build_head
from dinov3.segment.segmenter_file import PRODUCT, About
from dinov3.segment.stream import Feeding
from dinov3.weights.provenance import Facts


@dataclass
class Built:
    """A segmenter with what its files say of it."""

    segmenter: Segmenter
    cfg: SegmentConfig
    facts: Facts
    pretrained: dict[str, Any] | None
    lines: list[str] = field(default_factory=list)

    @property
    def feeding(self) -> Feeding:
        return feeding_of(self.facts.preprocess, self.cfg.augment.short_side)

    def about(self, step: int) -> About:
        cfg, shape = self.cfg, self.segmenter.shape
        return About(
            classes=shape.classes,
            head=shape.kind,
            frozen=shape.frozen,
            queries=shape.queries,
            query_blocks=shape.query_blocks,
            width=shape.width,
            crop=cfg.augment.crop,
            stride=stride_of(cfg),
            short_side=cfg.augment.short_side,
            ignore=cfg.train.ignore,
            reduce_zero=cfg.train.reduce_zero,
            weights=cfg.model.weights,
            step=step,
        )


def feeding_of(preprocess: dict[str, Any], short_side: int) -> Feeding:
    """How the backbone whose file says ``preprocess`` is fed."""
    return Feeding(tuple(preprocess["mean"]), tuple(preprocess["std"]), short_side)


def build_segmenter(cfg: SegmentConfig, start: Start, classes: int) -> Built:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    model, loaded = cfg.model, load_start(cfg.model, start)
    backbone = loaded.backbone
    check_multiple("augment.crop", cfg.augment.crop, backbone.stride)
    if model.head == "mask_transformer" and find_spec("scipy") is None:
        raise ConfigError("", "model.head", "mask_transformer needs scipy to train: pip install 'dinov3[segment]'")
    shape = HeadShape(classes, model.head, model.frozen, model.queries, model.query_blocks, model.width)
    head = build_head(shape, backbone, model.dropout)
    head.init_weights(torch.Generator().manual_seed(cfg.train.seed))
    if loaded.head is not None:
        PRODUCT.read_head(head, loaded.head)
    facts = loaded.facts(f"{model.head}, {classes} classes of pixels", cfg.augment.crop, cfg.data)
    return Built(Segmenter(backbone, head, shape), cfg, facts, loaded.pretrained, loaded.lines)
