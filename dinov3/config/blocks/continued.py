"""Blocks of continued training: what of a good start is kept, and how much of it is gone."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov3.config.blocks.loss import ScheduleConfig
from dinov3.config.spec import key


@dataclass
class HeadWarmupConfig:
    when: Literal["heads_missing", "always", "never"] = key(
        "heads_missing", "train the heads alone at first: when the weights the run starts from have none, or as said"
    )
    steps: int = key(500, "backbone and EMA backbone stand still for so long", unit="steps", ge=0)


@dataclass
class LoraConfig:
    enabled: bool = key(False, "train low-rank changes of the backbone's matrices and nothing else of it")
    rank: int = key(8, "rank of a change", ge=1)
    alpha: float = key(16.0, "a change is multiplied by alpha / rank", gt=0)
    targets: list[str] = key(
        ["qkv", "proj", "fc1", "fc2", "w1", "w2", "w3"], "last names of the linear layers that get one"
    )


@dataclass
class FeatureAnchorConfig:
    enabled: bool = key(False, "hold the features close to those at the start, by a frozen copy of it", fixed=True)
    loss_weight: float = key(1.0, "weight of the term", ge=0)
    loss_weight_schedule: ScheduleConfig | None = key(None, "weight over time, in place of loss_weight")
    loss: Literal["cosine", "l2"] = key(
        "cosine", "1 - cosine, or squared distance over the squared norm of the frozen feature"
    )
    cls_weight: float = key(1.0, "weight of the CLS tokens in the term", ge=0)
    patch_weight: float = key(1.0, "weight of the patch tokens in the term", ge=0)
    tokens: Literal["all", "masked", "unmasked"] = key("unmasked", "patches the term looks at")


@dataclass
class FeatureDistillationConfig:
    enabled: bool = key(False, "match the features of any frozen backbone; it needs no heads")
    checkpoint: str = key(
        "", "the frozen backbone: a run, a checkpoint, or a file `dinov3` can read", path=True, fixed=False
    )
    loss_weight: float = key(1.0, "weight of the term", ge=0, fixed=False)
    loss_weight_schedule: ScheduleConfig | None = key(None, "weight over time, in place of loss_weight", fixed=False)
    loss: Literal["cosine", "l2"] = key(
        "cosine", "1 - cosine, or squared distance over the squared norm of the frozen feature"
    )
    cls_weight: float = key(1.0, "weight of the CLS tokens in the term", ge=0)
    patch_weight: float = key(1.0, "weight of the patch tokens in the term", ge=0)
    tokens: Literal["all", "masked", "unmasked"] = key("all", "patches the term looks at")
    input_size: int | None = key(
        None,
        "side of the crops the frozen backbone is shown; null: what gives its patches the student's grid. Another grid "
        "is interpolated",
        unit="px",
        ge=1,
    )
