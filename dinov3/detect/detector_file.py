"""A detector on disk: a folder that every command reads as a backbone, with the head and ``detector.json`` beside it."""

from __future__ import annotations

from dataclasses import dataclass

from dinov3.detect.detector import Detector, HeadShape, build_head
from dinov3.finetune.headed.product import Product
from dinov3.models.backbone import Backbone


@dataclass(frozen=True)
class About:
    """What ``detector.json`` says."""

    classes: list[str]
    frozen: bool
    upscale: int
    levels: int
    width: int
    depth: int
    side: int  # px of a view
    least_score: float
    overlap: float
    weights: str  # where the backbone came from
    step: int

    @property
    def shape(self) -> HeadShape:
        return HeadShape(len(self.classes), self.upscale, self.levels, self.width, self.depth)


def _wrong(about: About) -> list[str]:
    values = {
        "classes": len(set(about.classes)) == len(about.classes) > 0,
        "upscale": about.upscale <= 2,
        "levels": about.upscale < about.levels <= 7,
        "width": about.width >= 8,
        "side": about.side >= 1,
        "least_score": 0 <= about.least_score < 1,
        "overlap": 0 < about.overlap <= 1,
    }
    return [name for name, right in values.items() if not right]


def _made(backbone: Backbone, about: About) -> Detector:
    return Detector(backbone, build_head(about.shape, backbone), frozen=about.frozen)


PRODUCT = Product("detector.json", "detector", "dinov3-detector", "detect", About, _wrong, _made)
write_detector, load_detector = PRODUCT.write, PRODUCT.load
