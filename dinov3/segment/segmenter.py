"""A backbone with a head that names every pixel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dinov3.config.errors import ConfigError
from dinov3.dense.windows import of_any_size
from dinov3.finetune.headed.model import HeadedModel
from dinov3.models.backbone import Backbone
from dinov3.models.vit import DinoVisionTransformer
from dinov3.segment.mask_transformer import MaskTransformer
from dinov3.segment.pixel import DptHead, Linear

HEADS = ("linear", "dpt", "mask_transformer")
Head = Linear | DptHead | MaskTransformer


@dataclass(frozen=True)
class HeadShape:
    """What a head is built from, beside the backbone."""

    classes: int
    kind: str  # one of HEADS
    frozen: bool
    queries: int
    query_blocks: int
    width: int


def build_head(shape: HeadShape, backbone: Backbone, dropout: float = 0.0) -> Head:
    """On the CPU. ConfigError for a backbone that the head is not for."""
    if shape.kind == "linear":
        return Linear(backbone.embed_dim, shape.classes, dropout)
    if not isinstance(backbone, DinoVisionTransformer):
        raise ConfigError("", "model.head", f"{shape.kind} needs a vision transformer: use linear with this backbone")
    if shape.kind == "dpt":
        return DptHead(backbone.embed_dim, shape.classes, shape.width, dropout)
    if not shape.frozen and shape.query_blocks > backbone.n_blocks:
        raise ConfigError(
            "", "model.query_blocks", f"{shape.query_blocks}: the backbone has {backbone.n_blocks} blocks"
        )
    cfg = backbone.config
    return MaskTransformer(cfg, shape.classes, shape.queries, shape.query_blocks, own_blocks=shape.frozen)


class Segmenter(HeadedModel):
    """Images ``[N, C, H, W]`` to scores ``[N, K, H, W]``, of which the largest is the class."""

    head: Head

    def __init__(self, backbone: Backbone, head: Head, shape: HeadShape) -> None:
        super().__init__(backbone, head, frozen=shape.frozen)
        self.shape = shape

    def loss(self, images: Tensor, masks: Tensor, ignore: int) -> dict[str, Tensor]:
        """Terms whose sum is the loss of ``masks [N, H, W]``."""
        return self.head.loss(self.backbone, images, masks, ignore)

    def forward(self, images: Tensor) -> Tensor:
        """Images of any size."""
        return of_any_size(lambda whole: self.head.scores(self.backbone, whole), images, self.backbone.stride)
