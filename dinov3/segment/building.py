"""From a config and where a run starts to a segmenter ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from dinov3.config.errors import ConfigError
from dinov3.models.build import describe_backbone
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.segment.config import SegmentConfig, stride_of
from dinov3.segment.segmenter import HeadShape, Segmenter, build_head
from dinov3.segment.segmenter_file import About, read_head
from dinov3.segment.stream import Feeding
from dinov3.weights.model_card import FINE_TUNED, provenance_of
from dinov3.weights.own import load_backbone, read_source
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
    """On the CPU. A run that goes on takes the backbone from its own checkpoint: the first weights may be gone.

    Raises ConfigError, FinetuneError, WeightsError or CheckpointError.
    """
    model = cfg.model
    state = start.found or start.beginning
    source = state or Path(model.weights)
    backbone = load_backbone(source, preset=None if state else model.preset)
    if not model.frozen and "int8" in describe_backbone(backbone)["config"]:
        raise ConfigError("", "model.weights", "its matrices are int8, which do not train: use model.frozen=true")
    if cfg.augment.crop % backbone.stride:
        low = max(cfg.augment.crop // backbone.stride, 1) * backbone.stride
        wrong = f"{cfg.augment.crop} is not a multiple of the patch of {backbone.stride} px"
        raise ConfigError("", "augment.crop", f"{wrong}: use {low} or {low + backbone.stride}")
    if model.head == "mask_transformer" and find_spec("scipy") is None:
        raise ConfigError("", "model.head", "mask_transformer needs scipy to train: pip install 'dinov3[segment]'")
    shape = HeadShape(classes, model.head, model.frozen, model.queries, model.query_blocks)
    head = build_head(shape, backbone, model.dropout)
    head.init_weights(torch.Generator().manual_seed(cfg.train.seed))
    segmenter = Segmenter(backbone, head, shape)
    lines = [f"start      {source}"]
    if start.found is None and start.beginning is not None:
        read_head(segmenter, start.beginning)
        lines.append(f"head       {start.beginning}")
    statistics = cast(Any, backbone).preprocess
    preprocess = {"mean": list(statistics["mean"]), "std": list(statistics["std"]), "size": cfg.augment.crop}
    if (white := cfg.data.value_range) is not None:
        preprocess["value_range"] = white
    told = provenance_of(
        source, cast(Any, backbone).described, [f"{FINE_TUNED}: {model.head}, {classes} classes of pixels"]
    )
    return Built(segmenter, cfg, Facts(preprocess, told), _pretrained(source, state), lines)


def _pretrained(source: Path, state: Path | None) -> dict[str, Any] | None:
    """Which weights the backbone began with, as a checkpoint says it."""
    if state is not None:
        found: dict[str, Any] | None = read_train_state(state).get("pretrained")
        return found
    read = read_source(source, heads=False)
    return {"path": str(source), "layout": read.layout, "sha256": read.raw.sha256()}
