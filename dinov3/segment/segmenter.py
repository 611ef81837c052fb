"""A backbone with a head that names every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.errors import ConfigError
from dinov3.dense.windows import resized
from dinov3.finetune.headed.groups import freeze
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


class Segmenter(nn.Module):
    """Images ``[N, C, H, W]`` to scores ``[N, K, H, W]``, of which the largest is the class.

    The backbone is always in eval mode: drop path and the jitter of positions are of pretraining.
    """

    def __init__(self, backbone: Backbone, head: Head, shape: HeadShape) -> None:
        super().__init__()
        self.backbone, self.head, self.shape = backbone, head, shape
        freeze(backbone, frozen=shape.frozen)

    def loss(self, images: Tensor, masks: Tensor, ignore: int) -> dict[str, Tensor]:
        """Terms whose sum is the loss of ``masks [N, H, W]``."""
        return self.head.loss(self.backbone, images, masks, ignore)

    def forward(self, images: Tensor) -> Tensor:
        """Images of any size: a margin of the mean colour makes whole patches of it, and is cut off again."""
        height, width = images.shape[-2:]
        down, right = -height % self.backbone.stride, -width % self.backbone.stride
        scores = self.head.scores(self.backbone, F.pad(images, (0, right, 0, down)))
        return resized(scores, (height + down, width + right))[..., :height, :width]

    def train(self, mode: bool = True) -> Segmenter:
        super().train(mode)
        self.backbone.eval()
        return self
