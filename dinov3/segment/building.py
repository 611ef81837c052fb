"""From a config and where a run starts to a segmenter ready to train."""

from __future__ import annotations

from importlib.util import find_spec

from dinov3.config.errors import ConfigError
from dinov3.finetune.headed.building import Built, check_multiple, load_start
from dinov3.runs.start import Start
from dinov3.segment.config import SegmentConfig, stride_of
from dinov3.segment.segmenter import Segmenter, build_head
from dinov3.segment.segmenter_file import PRODUCT, About


def about_of(cfg: SegmentConfig, classes: int) -> About:
    """What the file of a segmenter says before the first step."""
    model, train, augment = cfg.model, cfg.train, cfg.augment
    return About(
        classes=classes,
        head=model.head,
        frozen=model.frozen,
        queries=model.queries,
        query_blocks=model.query_blocks,
        width=model.width,
        crop=augment.crop,
        stride=stride_of(cfg),
        short_side=augment.short_side,
        ignore=train.ignore,
        reduce_zero=train.reduce_zero,
        weights=model.weights,
        step=0,
    )


def build_segmenter(cfg: SegmentConfig, start: Start, classes: int) -> Built[Segmenter, About]:
    """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""
    model, loaded, about = cfg.model, load_start(cfg.model, start), about_of(cfg, classes)
    check_multiple("augment.crop", about.crop, loaded.backbone.stride)
    if model.head == "mask_transformer" and find_spec("scipy") is None:
        raise ConfigError("", "model.head", "mask_transformer needs scipy to train: pip install 'dinov3[segment]'")
    head = build_head(about.shape, loaded.backbone, model.dropout)
    facts = loaded.facts(f"{model.head}, {classes} classes of pixels", about.crop, cfg.data)
    return loaded.built(PRODUCT, Segmenter(loaded.backbone, head, about.shape), about, cfg, facts)
