"""An estimator on disk: a folder that every command reads as a backbone, with the head and ``estimator.json`` beside it."""

from __future__ import annotations

from dataclasses import dataclass

from dinov3.dense.depth_bins import BINS, NORMS
from dinov3.depth.estimator import HEADS, Estimator, HeadShape, build_head
from dinov3.finetune.headed.product import Product
from dinov3.models.backbone import Backbone


@dataclass(frozen=True)
class About:
    """What ``estimator.json`` says."""

    head: str
    frozen: bool
    width: int
    bins: int
    bin_rule: str
    norm: str
    low: float  # m
    high: float  # m
    units: float  # of 16-bit files, a metre
    crop_height: int  # px of the views it was trained on
    crop_width: int
    short_side: int  # px an image is resized to first; 0: its own size
    flip: bool
    eigen: bool
    weights: str  # where the backbone came from
    step: int

    @property
    def shape(self) -> HeadShape:
        return HeadShape(self.head, self.frozen, self.width, self.bins, self.bin_rule, self.norm, self.low, self.high)


def _wrong(about: About) -> list[str]:
    values = {
        "head": about.head in HEADS,
        "width": about.width >= 8,
        "bins": about.bins >= 2,
        "bin_rule": about.bin_rule in BINS,
        "norm": about.norm in NORMS,
        "low": 0 < about.low < about.high,
        "units": about.units > 0,
        "crop_height": about.crop_height >= 1,
        "crop_width": about.crop_width >= 1,
    }
    return [name for name, right in values.items() if not right]


def _made(backbone: Backbone, about: About) -> Estimator:
    return Estimator(backbone, build_head(about.shape, backbone), about.shape)


PRODUCT = Product("estimator.json", "estimator", "dinov3-estimator", "depth", About, _wrong, _made)
write_estimator, load_estimator = PRODUCT.write, PRODUCT.load
