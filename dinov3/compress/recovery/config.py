"""Every key of a recovery."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dinov3.config.blocks.train import LoopConfig, TaskOptimConfig
from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key
from dinov3.finetune.config import PrecisionConfig


@dataclass
class PairConfig:
    """The compressed model, and the one it shall be like again."""

    weights: str = key("", "the compressed model: a file of `dinov3 compress`", path=True)
    teacher: str = key("", "the model it was made from: a run, an export, or weights of others", path=True)
    preset: str | None = key(None, "released model the teacher's weights are of, when the file cannot tell")
    size: int | None = key(
        None, "side of the square images are resized to; null: as the weights say", unit="px", ge=1, fixed=True
    )


@dataclass
class RecoveryLoopConfig(LoopConfig):
    num_workers: int = key(8, "threads that read and resize images; the result does not depend on it", ge=0)
    dataset_path: str = key("", "images, whose labels are not looked at: a path, or Name:key=value:...", fixed=True)


@dataclass
class RecoveryLossConfig:
    cls_weight: float = key(1.0, "weight of class tokens", ge=0)
    patch_weight: float = key(1.0, "weight of patches", ge=0)


@dataclass
class RecoveryViewConfig:
    preset: Literal["none", "flips", "photographs", "histology"] = key(
        "flips", "changes of the images, as in `augment.preset` of a classifier; both models see the same"
    )
    scale: list[float] = key(
        [0.5, 1.0], "least and largest share of the image that is cut out; 1: whole", length=2, ordered=True, gt=0, le=1
    )


@dataclass
class RecoveryJudgedConfig:
    images: str | None = key(
        None, "images on which tokens are compared; null: those of training, as they are, without changes"
    )
    max_images: int = key(256, "most that are compared, evenly spread", unit="images", ge=1)
    period: int | None = key(None, "steps between two comparisons; null: an epoch", unit="steps", ge=1)


@dataclass
class RecoverConfig(RunBlocks):
    """One recovery of a compressed model."""

    task: Literal["recover"] = key("recover", "what is trained", fixed=True)
    model: PairConfig = key(PairConfig, "the compressed model, and the one it was made from", fixed=True)
    train: RecoveryLoopConfig = key(RecoveryLoopConfig, "data, batch, run folder, seed")
    optim: TaskOptimConfig = key(TaskOptimConfig, "length of training, optimizer, schedules")
    loss: RecoveryLossConfig = key(RecoveryLossConfig, "which tokens are drawn to those of the teacher")
    augment: RecoveryViewConfig = key(RecoveryViewConfig, "changes of the training images")
    compute_precision: PrecisionConfig = key(PrecisionConfig, "number formats")
    evaluation: RecoveryJudgedConfig = key(RecoveryJudgedConfig, "how close the tokens are, on the way")


def _checks(cfg: RecoverConfig) -> Iterator[tuple[str, str]]:
    if not cfg.model.weights:
        yield "model.weights", "is missing: give a compressed model"
    if not cfg.model.teacher:
        yield "model.teacher", "is missing: give the model that model.weights was made from"
    if not cfg.train.dataset_path:
        yield "train.dataset_path", "is missing: give images, for example a folder; labels are not looked at"
    if cfg.loss.cls_weight == cfg.loss.patch_weight == 0:
        yield "loss.cls_weight", "is 0 as loss.patch_weight is: nothing would be learned"
    if cfg.optim.min_lr > cfg.optim.lr:
        yield "optim.min_lr", f"{cfg.optim.min_lr:g} is above optim.lr {cfg.optim.lr:g}: lower it"


RECOVER = Schema(root=RecoverConfig, checks=(_checks,))
