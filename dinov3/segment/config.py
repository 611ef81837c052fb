"""Every key of a segmentation run."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key
from dinov3.dense.segmentation import IGNORE
from dinov3.finetune.config import PrecisionConfig
from dinov3.finetune.headed.config import BackboneConfig, HeadLoopConfig, HeadOptimConfig, JudgedConfig, head_checks


@dataclass
class SegmenterConfig(BackboneConfig):
    """The backbone, the head on it, and what of both trains."""

    head: Literal["linear", "dpt", "mask_transformer"] = key(
        "linear",
        "linear: one 1x1 convolution on patches; dpt: a decoder on four layers; mask_transformer: queries, each a mask with "
        "a class",
    )
    width: int = key(256, "dpt: channels of the decoder", ge=8)
    dropout: float = key(0.1, "linear and dpt: share of the channels that a step leaves out", ge=0, lt=1)
    queries: int = key(100, "mask_transformer: masks an image is described by", ge=1)
    query_blocks: int = key(
        4, "mask_transformer: blocks that see the queries: new ones behind a frozen backbone, else its own last", ge=1
    )


@dataclass
class SegmentLoopConfig(HeadLoopConfig):
    dataset_path: str = key(
        "",
        "folder with images/ and masks/ (or annotations/) in a training and a validation part, or Synthetic:n=...; "
        "without parts every fifth image is for validation",
        nonempty=True,
        fixed=True,
    )
    classes: int | None = key(None, "number of classes; null: as the training masks have", ge=2, fixed=True)
    ignore: int = key(IGNORE, "number of a pixel that nobody has labelled", ge=0, fixed=True)
    reduce_zero: bool = key(False, "0 means unlabelled, classes begin at 1 (ADE20K)", fixed=True)


@dataclass
class CropConfig:
    crop: int = key(512, "side of the crops trained on, and of the windows scored", unit="px", ge=1, fixed=True)
    short_side: int = key(0, "images are resized to it first; 0: their own size", unit="px", ge=0, fixed=True)
    scale: list[float] = key(
        [0.5, 2.0],
        "least and largest factor by which an image is resized before the crop",
        length=2,
        ordered=True,
        gt=0,
    )


@dataclass
class WindowConfig(JudgedConfig):
    stride: int | None = key(None, "from one window to the next; null: two thirds of augment.crop", unit="px", ge=1)


@dataclass
class SegmentConfig(RunBlocks):
    """One training of a segmenter."""

    task: Literal["segment"] = key("segment", "what is fine-tuned", fixed=True)
    model: SegmenterConfig = key(SegmenterConfig, "the backbone, the head and what trains", fixed=True)
    train: SegmentLoopConfig = key(SegmentLoopConfig, "data, batch, run folder, seed")
    optim: HeadOptimConfig = key(HeadOptimConfig, "length of training, optimizer, schedules")
    augment: CropConfig = key(CropConfig, "training crops: resized, cut out, mirrored half of the time")
    compute_precision: PrecisionConfig = key(PrecisionConfig, "number formats")
    evaluation: WindowConfig = key(WindowConfig, "validation, which selects the weights by mean IoU")


def stride_of(cfg: SegmentConfig) -> int:
    """Pixels from one window to the next."""
    return cfg.evaluation.stride or max(1, cfg.augment.crop * 2 // 3)


def _checks(cfg: SegmentConfig) -> Iterator[tuple[str, str]]:
    plain, masks = SegmenterConfig(), cfg.model.head == "mask_transformer"
    idle = {
        "model.width": (cfg.model.width != plain.width, cfg.model.head == "dpt", "model.head=dpt"),
        "model.dropout": (cfg.model.dropout != plain.dropout, not masks, "model.head=linear or dpt"),
        "model.queries": (cfg.model.queries != plain.queries, masks, "model.head=mask_transformer"),
        "model.query_blocks": (cfg.model.query_blocks != plain.query_blocks, masks, "model.head=mask_transformer"),
    }
    yield from head_checks(cfg, cfg.train.dataset_path, "a folder with images and masks, or Synthetic:n=200", idle)
    if stride_of(cfg) > cfg.augment.crop:
        yield (
            "evaluation.stride",
            f"{stride_of(cfg)} px leaves gaps between windows of augment.crop {cfg.augment.crop} px",
        )
    if cfg.train.classes is not None and cfg.train.ignore < cfg.train.classes:
        yield "train.ignore", f"{cfg.train.ignore} is one of the {cfg.train.classes} classes: give another number"


SEGMENT = Schema(root=SegmentConfig, checks=(_checks,))
