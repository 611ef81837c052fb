"""Every key of a depth run."""

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
class EstimatorConfig(BackboneConfig):
    """The backbone, the head on it, and what its channels mean."""

    head: Literal["linear", "dpt"] = key(
        "linear", "linear: one 1x1 convolution on patches; dpt: a decoder on four layers"
    )
    width: int = key(256, "dpt: channels of the decoder", ge=8)
    dropout: float = key(0.1, "share of the channels that a step leaves out", ge=0, lt=1)
    bins: int = key(256, "depths between train.low and train.high that channels stand for", ge=2)
    bin_rule: Literal["linear", "log"] = key("linear", "bins evenly spaced, or evenly in the logarithm")
    norm: Literal["linear", "softmax", "sigmoid"] = key(
        "linear", "how channels become weights of bins; linear: ReLU plus 0.1, divided by the sum"
    )


@dataclass
class DepthLoopConfig(HeadLoopConfig):
    dataset_path: str = key(
        "",
        "folder with images/ and depth/ (16-bit PNG) in a training and a validation part, or Synthetic:n=...; without "
        "parts every fifth image is for validation",
        nonempty=True,
        fixed=True,
    )
    units: float = key(1000.0, "of the PNGs, a metre", gt=0, fixed=True)
    low: float = key(0.001, "a pixel at this depth or nearer does not count", unit="m", gt=0, fixed=True)
    high: float = key(10.0, "a pixel at this depth or farther does not count", unit="m", gt=0, fixed=True)


@dataclass
class DepthViewConfig:
    crop_height: int = key(416, "of the crops trained on", unit="px", ge=1, fixed=True)
    crop_width: int = key(544, "of the crops trained on", unit="px", ge=1, fixed=True)
    short_side: int = key(0, "images are resized to it first; 0: their own size", unit="px", ge=0, fixed=True)
    scale: list[float] = key(
        [1.0, 1.0],
        "least and largest factor by which an image is resized before the crop; its depth stays as it is",
        length=2,
        ordered=True,
        gt=0,
    )
    rotation: float = key(2.5, "largest turn to either side", unit="degrees", ge=0, lt=45)
    brightness: list[float] = key([0.9, 1.1], "least and largest factor of all colours", length=2, ordered=True, gt=0)


@dataclass
class DepthJudgedConfig(JudgedConfig):
    flip: bool = key(True, "the mean over the image and its mirror image")
    eigen: bool = key(False, "score inside the Eigen crop of NYU only")


@dataclass
class DepthConfig(RunBlocks):
    """One training of a depth estimator."""

    task: Literal["depth"] = key("depth", "what is fine-tuned", fixed=True)
    model: EstimatorConfig = key(EstimatorConfig, "the backbone, the head and what trains", fixed=True)
    train: DepthLoopConfig = key(DepthLoopConfig, "data, batch, run folder, seed")
    optim: HeadOptimConfig = key(HeadOptimConfig, "length of training, optimizer, schedules")
    augment: DepthViewConfig = key(
        DepthViewConfig, "training crops: turned, resized, cut out, mirrored half of the time"
    )
    compute_precision: PrecisionConfig = key(PrecisionConfig, "number formats")
    evaluation: DepthJudgedConfig = key(DepthJudgedConfig, "validation, which selects the weights by RMSE")


def _checks(cfg: DepthConfig) -> Iterator[tuple[str, str]]:
    plain = EstimatorConfig()
    idle = {"model.width": (cfg.model.width != plain.width, cfg.model.head == "dpt", "model.head=dpt")}
    wanted = "a folder with images and depth, or Synthetic:n=200"
    yield from head_checks(cfg, cfg.train.dataset_path, wanted, idle)
    if cfg.train.low >= cfg.train.high:
        yield "train.low", f"{cfg.train.low:g} is not below train.high {cfg.train.high:g}"


DEPTH = Schema(root=DepthConfig, checks=(_checks,))
