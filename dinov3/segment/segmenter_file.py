"""A segmenter on disk: a folder that every command reads as a backbone, with the head beside it.

``backbone.safetensors`` and ``config.json`` (as in a checkpoint), ``head.safetensors``, ``segmenter.json``.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinov3.finetune.headed.product import Product
from dinov3.models.backbone import Backbone
from dinov3.segment.segmenter import HEADS, HeadShape, Segmenter, build_head


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


def _made(backbone: Backbone, about: About) -> Segmenter:
    return Segmenter(backbone, build_head(about.shape, backbone), about.shape)


PRODUCT = Product("segmenter.json", "segmenter", "dinov3-segmenter", "segment", About, _wrong, _made, {"width": 256})
ABOUT = PRODUCT.file
write_segmenter, load_segmenter = PRODUCT.write, PRODUCT.load
