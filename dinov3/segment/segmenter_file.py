"""A segmenter on disk: a folder that every command reads as a backbone, with the head beside it.

``backbone.safetensors`` and ``config.json`` (as in a checkpoint), ``head.safetensors``, ``segmenter.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinov3.finetune.headed.product import Product
from dinov3.segment.segmenter import HEADS, HeadShape, Segmenter, build_head
from dinov3.weights.own import load_backbone
from dinov3.weights.provenance import Facts


@dataclass(frozen=True)
class About:
    """What ``segmenter.json`` says."""

    classes: int
    head: str
    frozen: bool
    queries: int
    query_blocks: int
    width: int
    crop: int  # px a side of a window
    stride: int  # px from one window to the next
    short_side: int  # px an image is resized to first; 0: its own size
    ignore: int
    reduce_zero: bool
    weights: str  # where the backbone came from
    step: int

    @property
    def shape(self) -> HeadShape:
        return HeadShape(self.classes, self.head, self.frozen, self.queries, self.query_blocks, self.width)


def _wrong(about: About) -> list[str]:
    least = {"classes": 2, "queries": 1, "query_blocks": 1, "width": 1, "crop": 1, "stride": 1}
    wrong = [name for name, low in least.items() if getattr(about, name) < low]
    return [*wrong, *(["head"] if about.head not in HEADS else []), *(["stride"] if about.stride > about.crop else [])]


PRODUCT = Product("segmenter.json", "segmenter", "dinov3-segmenter", "segment", About, _wrong, {"width": 256})
ABOUT, FOLDER = PRODUCT.file, PRODUCT.folder


def write_segmenter(folder: Path, segmenter: Segmenter, about: About, facts: Facts) -> None:
    """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
    PRODUCT.write(folder, segmenter.backbone, segmenter.head, about, facts)


def load_segmenter(path: Path, backbone: Path | None = None) -> tuple[Segmenter, About]:
    """The segmenter at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
    compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
    folder = PRODUCT.folder_of(path)
    about = PRODUCT.read_about(folder)
    loaded = load_backbone(backbone or folder)
    segmenter = Segmenter(loaded, build_head(about.shape, loaded), about.shape)
    PRODUCT.read_head(segmenter.head, folder)
    return segmenter.eval(), about
