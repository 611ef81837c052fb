"""A backbone with a head that finds objects."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dinov3.dense.linear_head import last_patches
from dinov3.detect.head import DetectHead, Said
from dinov3.detect.loss import detect_loss
from dinov3.detect.views import Truth
from dinov3.finetune.headed.model import HeadedModel
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


class Detector(HeadedModel):
    """Images ``[N, C, H, W]`` of whole patches to what is said of every place."""

    head: DetectHead

    def forward(self, images: Tensor) -> Said:
        with torch.no_grad() if self.frozen else nullcontext():
            patches = last_patches(self.backbone, images)
        said: Said = self.head(patches)
        return said

    def loss(self, images: Tensor, truths: list[Truth]) -> dict[str, Tensor]:
        """Terms whose sum is the loss."""
        return detect_loss(self(images), truths, self.head.strides)
