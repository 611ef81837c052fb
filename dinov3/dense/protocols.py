"""Settings of an evaluation: small ones for a CPU, and the official ones by name. ``key=value`` words change any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from dinov3.dense.probe import Fit
from dinov3.dense.segmentation import IGNORE
from dinov3.features.errors import FeatureError


@dataclass(frozen=True)
class HeadProtocol:
    """A head trained on frozen patches of the last layer."""

    probe: str = "sgd"  # or ridge: closed form, on cached features
    steps: int = 500
    batch: int = 16
    lr: float = 1e-3
    beta2: float = 0.999
    weight_decay: float = 1e-3
    warmup: int = 50
    dropout: float = 0.1
    clip: float = 0.0  # largest norm of the gradient; 0: any
    seed: int = 0
    flip_tta: bool = False  # average over the image and its mirror
    limit: int = 0  # images of each part at most, evenly spread; 0: all

    @property
    def fit(self) -> Fit:
        """What the optimizer needs."""
        betas = (0.9, self.beta2)
        return Fit(self.steps, self.batch, self.lr, betas, self.weight_decay, self.warmup, self.clip, self.seed)

    def check(self) -> None:
        """FeatureError for settings without a meaning."""
        if self.probe not in ("sgd", "ridge"):
            raise FeatureError(f"probe={self.probe}: choose sgd or ridge")
        for name, least in (("steps", 1), ("batch", 2), ("warmup", 0), ("limit", 0)):
            if getattr(self, name) < least:
                raise FeatureError(f"{name}={getattr(self, name)}: at least {least}")
        if not 0 < self.lr < float("inf") or not 0 <= self.dropout < 1:
            raise FeatureError(f"lr={self.lr:g} dropout={self.dropout:g}: lr above 0, dropout in [0, 1)")


@dataclass(frozen=True)
class SegmentProtocol(HeadProtocol):
    """``dinov3 eval seg``. Without ``crop``: whole images at --size, features from the cache."""

    classes: int = 0  # 0: as many as the training masks have
    ignore: int = IGNORE
    reduce_zero: bool = False  # 0 means unlabelled, classes begin at 1
    short_side: int = 0  # px, with crop: images are resized to it
    crop: int = 0  # px: random crops in training (scale 0.5 to 2, mirrored), windows in the test; 0: whole images
    stride: int = 0  # px between windows
    knn: int = 30  # neighbours of dense k-NN; 0: left out
    foreground: int = -1  # classes from this number on are objects, found by PCA without labels; -1: left out


@dataclass(frozen=True)
class DepthProtocol(HeadProtocol):
    """``dinov3 eval depth``. Without ``crop_height``: whole images at --size, features from the cache."""

    units: float = 1000.0  # of the PNGs, a metre
    low: float = 0.001  # m: what is not between low and high does not count
    high: float = 10.0
    bins: int = 64
    bin_rule: str = "linear"  # or log
    norm: str = "linear"  # of the bins' weights: linear, softmax or sigmoid
    eigen: bool = False  # score inside the Eigen crop of NYU only
    align: bool = False  # least squares scale and shift of each prediction
    crop_height: int = 0  # px: random crops in training (mirrored, brightness, rotation), whole images in the test
    crop_width: int = 0


@dataclass(frozen=True)
class MatchProtocol:
    """``dinov3 eval match``."""

    task: str = "homography"  # homography, spair, navi or keypoints
    descriptor: str = "nearest"  # or bilinear
    most_pairs: int = 0  # drawn by seed; 0: all
    strength: float = 0.25  # homography: how far a corner moves, as a share of the side
    debias_images: int = 32  # of noise, to estimate the positional bias; 0: raw only
    debias_share: float = 0.95  # of the bias' variance that is removed
    seed: int = 0


@dataclass(frozen=True)
class TrackProtocol:
    """``dinov3 eval track``. Distances in patches."""

    short_side: int = 0  # px frames are resized to; 0: by --size
    variant: str = "notebook"
    context: int = 7
    radius: float = 12.0
    shape: str = "circle"
    topk: int = 5
    temperature: float = 0.2
    skip_last: bool = True  # the last frame is not scored, as DAVIS 2017 has it; the first never is


SEGMENT = {
    "small": SegmentProtocol(),
    "ade20k_linear": SegmentProtocol(
        steps=40_000,
        warmup=1_500,
        classes=150,
        reduce_zero=True,
        short_side=512,
        crop=512,
        stride=341,
        knn=0,
    ),
}
DEPTH = {
    "small": DepthProtocol(lr=3e-3, low=0.5, high=60.0, bin_rule="log", flip_tta=True),
    "nyu_linear": DepthProtocol(
        steps=38_400,
        warmup=12_800,
        lr=3e-4,
        beta2=0.99,
        weight_decay=1e-4,
        clip=35.0,
        bins=256,
        eigen=True,
        flip_tta=True,
        crop_height=416,
        crop_width=544,
    ),
}
MATCH = {
    "homography": MatchProtocol(),
    "spair": MatchProtocol(task="spair"),
    "navi": MatchProtocol(task="navi"),
    "keypoints": MatchProtocol(task="keypoints", most_pairs=2000),
}
TRACK = {
    "small": TrackProtocol(),
    "davis": TrackProtocol(short_side=960),
    "davis_dino": TrackProtocol(short_side=480, variant="dino", shape="square", temperature=0.1),
}
P = TypeVar("P", HeadProtocol, SegmentProtocol, DepthProtocol, MatchProtocol, TrackProtocol)


def chosen(table: Mapping[str, P], name: str, words: Sequence[str]) -> P:
    """The protocol ``name`` with ``key=value`` words applied. FeatureError for a key or a value that does not fit."""
    protocol = table[name]
    kinds: dict[str, Any] = {field.name: type(getattr(protocol, field.name)) for field in fields(protocol)}
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in kinds:
            raise FeatureError(f"{word}: give key=value with one of {', '.join(kinds)}")
        try:
            changes[key] = _value(kinds[key], text)
        except ValueError as error:
            raise FeatureError(f"{word}: a {kinds[key].__name__} is expected") from error
    return replace(protocol, **changes)


def _value(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)
