"""A backbone with a head that finds objects."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.detect.head import DetectHead, Said
from dinov3.detect.loss import detect_loss
from dinov3.detect.stream import Truth
from dinov3.finetune.headed.groups import freeze
from dinov3.models.backbone import Backbone


@dataclass(frozen=True)
class HeadShape:
    """What a head is built from, beside the backbone."""

    classes: int
    upscale: int
    levels: int
    width: int
    depth: int


def build_head(shape: HeadShape, backbone: Backbone) -> DetectHead:
    """On the CPU."""
    return DetectHead(
        backbone.embed_dim,
        shape.classes,
        patch=backbone.stride,
        upscale=shape.upscale,
        levels=shape.levels,
        width=shape.width,
        depth=shape.depth,
    )


class Detector(nn.Module):
    """Images ``[N, C, H, W]`` of whole patches to what is said of every place.

    The backbone is always in eval mode: drop path and the jitter of positions are of pretraining.
    """

    def __init__(self, backbone: Backbone, head: DetectHead, *, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.frozen = backbone, head, frozen
        freeze(backbone, frozen=frozen)

    def forward(self, images: Tensor) -> Said:
        with torch.no_grad() if self.frozen else nullcontext():
            found = cast(Features, self.backbone(images, is_training=True))
        said: Said = self.head(found.patches.mT.unflatten(2, found.grid))
        return said

    def loss(self, images: Tensor, truths: list[Truth]) -> dict[str, Tensor]:
        """Terms whose sum is the loss."""
        return detect_loss(self(images), truths, self.head.strides)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        self.backbone.eval()
        return self
