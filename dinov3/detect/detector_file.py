"""A detector on disk: a folder that every command reads as a backbone, with the head and ``detector.json`` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinov3.detect.detector import Detector, HeadShape, build_head
from dinov3.finetune.headed.product import Product
from dinov3.weights.own import load_backbone
from dinov3.weights.provenance import Facts


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


PRODUCT = Product("detector.json", "detector", "dinov3-detector", "detect", About, _wrong)


def write_detector(folder: Path, detector: Detector, about: About, facts: Facts) -> None:
    """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
    PRODUCT.write(folder, detector.backbone, detector.head, about, facts)


def load_detector(path: Path, backbone: Path | None = None) -> tuple[Detector, About]:
    """The detector at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
    compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
    folder = PRODUCT.folder_of(path)
    about = PRODUCT.read_about(folder)
    loaded = load_backbone(backbone or folder)
    detector = Detector(loaded, build_head(about.shape, loaded), frozen=about.frozen)
    PRODUCT.read_head(detector.head, folder)
    return detector.eval(), about
