"""An estimator on disk: a folder that every command reads as a backbone, with the head and ``estimator.json`` beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinov3.dense.depth_bins import BINS, NORMS
from dinov3.depth.estimator import HEADS, Estimator, HeadShape, build_head
from dinov3.finetune.headed.product import Product
from dinov3.weights.own import load_backbone
from dinov3.weights.provenance import Facts


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


PRODUCT = Product("estimator.json", "estimator", "dinov3-estimator", "depth", About, _wrong)


def write_estimator(folder: Path, estimator: Estimator, about: About, facts: Facts) -> None:
    """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
    PRODUCT.write(folder, estimator.backbone, estimator.head, about, facts)


def load_estimator(path: Path, backbone: Path | None = None) -> tuple[Estimator, About]:
    """The estimator at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
    compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
    folder = PRODUCT.folder_of(path)
    about = PRODUCT.read_about(folder)
    loaded = load_backbone(backbone or folder)
    estimator = Estimator(loaded, build_head(about.shape, loaded), about.shape)
    PRODUCT.read_head(estimator.head, folder)
    return estimator.eval(), about
