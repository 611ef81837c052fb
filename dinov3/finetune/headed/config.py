"""The keys that the tasks share whose head says something of every place of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from dinov3.config.blocks.train import LoopConfig, TaskOptimConfig
from dinov3.config.run_config import RunConfig
from dinov3.config.spec import key
from dinov3.finetune.config import PrecisionConfig


@dataclass
class BackboneConfig:
    """The backbone, and whether it trains."""

    weights: str = key("", "the backbone: a run, an export, a compressed model, or weights of others", path=True)
    preset: str | None = key(None, "released model the weights are of, when the file cannot tell")
    frozen: bool = key(True, "the head alone trains; false: the backbone too")


@dataclass
class HeadLoopConfig(LoopConfig):
    num_workers: int = key(8, "threads that read and crop images; the result does not depend on it", ge=0)


@dataclass
class HeadOptimConfig(TaskOptimConfig):
    """``lr`` is the head's."""

    backbone_lr: float | None = key(None, "peak learning rate of a backbone that trains; null: optim.lr", gt=0)
    layerwise_decay: float = key(1.0, "learning rate falls by this factor a block, from last to first", gt=0, le=1)


@dataclass
class JudgedConfig:
    period: int | None = key(None, "steps between two validations; null: an epoch", unit="steps", ge=1)
    max_images: int | None = key(
        None, "images of validation scored while training, evenly spread; null: all. The end scores all", ge=1
    )


class Headed(RunConfig, Protocol):
    """A config of such a task. The blocks are those above, or have their keys."""

    @property
    def task(self) -> str: ...
    @property
    def model(self) -> BackboneConfig: ...
    @property
    def optim(self) -> HeadOptimConfig: ...
    @property
    def compute_precision(self) -> PrecisionConfig: ...
    @property
    def evaluation(self) -> JudgedConfig: ...


Idle = Mapping[str, tuple[bool, bool, str]]  # key -> (it was given, something reads it, what it needs)


def head_checks(cfg: Headed, dataset_path: str, wanted: str, idle: Idle) -> Iterator[tuple[str, str]]:
    """What must hold in all of these tasks; ``wanted``: what ``train.dataset_path`` should name, ``idle``: keys of the task."""
    if not cfg.model.weights:
        yield "model.weights", "is missing: give a run, an export or a file of weights"
    if not dataset_path:
        yield "train.dataset_path", f"is missing: give {wanted}"
    if cfg.optim.min_lr > cfg.optim.lr:
        yield "optim.min_lr", f"{cfg.optim.min_lr:g} is above optim.lr {cfg.optim.lr:g}: lower it"
    trains = not cfg.model.frozen
    of_backbone = {
        "optim.backbone_lr": (cfg.optim.backbone_lr is not None, trains, "model.frozen=false"),
        "optim.layerwise_decay": (cfg.optim.layerwise_decay != 1, trains, "model.frozen=false"),
    }
    for name, (given, read, needs) in {**idle, **of_backbone}.items():
        if given and not read:
            yield name, f"does nothing without {needs}: leave it out"
