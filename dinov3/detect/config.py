"""Every key of a detection run."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key
from dinov3.finetune.config import PrecisionConfig
from dinov3.finetune.headed.config import BackboneConfig, HeadLoopConfig, HeadOptimConfig, JudgedConfig, head_checks


@dataclass
class DetectorConfig(BackboneConfig):
    """The backbone, the pyramid and the head on it."""

    upscale: int = key(1, "doublings of the grid of patches for the finest level of the pyramid", ge=0, le=2)
    levels: int = key(5, "of the pyramid, each half as fine as the one before", ge=1, le=7)
    width: int = key(256, "channels of pyramid and head", ge=8)
    depth: int = key(4, "3x3 convolutions of each of the head's two towers", ge=0)


@dataclass
class DetectLoopConfig(HeadLoopConfig):
    dataset_path: str = key(
        "",
        "folder with images and COCO annotations (a JSON), in a training and a validation part, or Synthetic:n=...; "
        "without parts every fifth image is for validation",
        nonempty=True,
        fixed=True,
    )


@dataclass
class ViewConfig:
    side: int = key(
        512, "of the square views trained on and scored; smaller images are padded", unit="px", ge=1, fixed=True
    )
    scale: list[float] = key(
        [0.5, 2.0],
        "least and largest factor, times side, of an image's longer side before a view is cut out; scored at 1",
        length=2,
        ordered=True,
        gt=0,
    )


@dataclass
class AnswerConfig(JudgedConfig):
    least_score: float = key(
        0.1, "boxes of a lower score (root of class probability times centerness) are not said", ge=0, lt=1
    )
    overlap: float = key(
        0.6, "of two boxes of a class with a larger IoU the one of the lower score is dropped", gt=0, le=1
    )


@dataclass
class DetectConfig(RunBlocks):
    """One training of a detector."""

    task: Literal["detect"] = key("detect", "what is fine-tuned", fixed=True)
    model: DetectorConfig = key(DetectorConfig, "the backbone, the head and what trains", fixed=True)
    train: DetectLoopConfig = key(DetectLoopConfig, "data, batch, run folder, seed")
    optim: HeadOptimConfig = key(HeadOptimConfig, "length of training, optimizer, schedules")
    augment: ViewConfig = key(ViewConfig, "training views: resized, cut out, mirrored half of the time")
    compute_precision: PrecisionConfig = key(PrecisionConfig, "number formats")
    evaluation: AnswerConfig = key(AnswerConfig, "validation, which selects the weights by box mAP")


def _checks(cfg: DetectConfig) -> Iterator[tuple[str, str]]:
    wanted = "a folder with images and COCO annotations, or Synthetic:n=200"
    yield from head_checks(cfg, cfg.train.dataset_path, wanted, {})
    if cfg.model.levels <= cfg.model.upscale:
        yield "model.levels", f"{cfg.model.levels}: the grid of patches is level {cfg.model.upscale + 1}: give more"


DETECT = Schema(root=DetectConfig, checks=(_checks,))
