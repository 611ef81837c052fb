"""A backbone with a head that says how far away every place is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov3.config.errors import ConfigError
from dinov3.dense.depth_bins import depth_of
from dinov3.dense.depth_losses import sig_loss
from dinov3.dense.depth_metrics import valid_pixels
from dinov3.dense.dpt import Dpt, levels_of
from dinov3.dense.linear_head import LinearHead, last_patches
from dinov3.dense.windows import of_any_size, resized
from dinov3.finetune.headed.model import HeadedModel
from dinov3.models.backbone import Backbone
from dinov3.models.vit import DinoVisionTransformer

HEADS = ("linear", "dpt")


@dataclass(frozen=True)
class HeadShape:
    """What a head is built from, beside the backbone, and what its channels mean."""

    kind: str  # one of HEADS
    frozen: bool
    width: int
    bins: int
    bin_rule: str
    norm: str
    low: float  # m
    high: float  # m


class DepthHead(nn.Module):
    """``[N, bins, h, w]`` logits: a linear head without batch norm on the last layer, or DPT's decoder on four."""

    def __init__(self, embed_dim: int, shape: HeadShape, dropout: float) -> None:
        super().__init__()
        self.on_layers = shape.kind == "dpt"
        self.layers: Dpt | LinearHead
        if self.on_layers:
            self.layers = Dpt(embed_dim, shape.bins, shape.width, dropout)
        else:  # batch norm's statistics would depend on how a batch is shared out
            self.layers = LinearHead([embed_dim], shape.bins, batchnorm=False, dropout=dropout)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""
        self.layers.init_weights(generator)

    def forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        if self.on_layers:
            of_layers: Tensor = self.layers(levels_of(backbone, images))
            return of_layers
        logits: Tensor = self.layers([last_patches(backbone, images)])
        return logits


def build_head(shape: HeadShape, backbone: Backbone, dropout: float = 0.0) -> DepthHead:
    """On the CPU. ConfigError for a backbone that the head is not for."""
    if shape.kind == "dpt" and not isinstance(backbone, DinoVisionTransformer):
        raise ConfigError("", "model.head", "dpt needs a vision transformer: use linear with this backbone")
    return DepthHead(backbone.embed_dim, shape, dropout)


class Estimator(HeadedModel):
    """Images ``[N, C, H, W]`` to depth ``[N, 1, H, W]`` in metres, between ``low`` and ``high``."""

    head: DepthHead

    def __init__(self, backbone: Backbone, head: DepthHead, shape: HeadShape) -> None:
        super().__init__(backbone, head, frozen=shape.frozen)
        self.shape = shape

    def depth(self, images: Tensor) -> Tensor:
        """``[N, 1, h, w]`` on the head's own grid, of images of whole patches."""
        logits, shape = self.head(self.backbone, images).float(), self.shape
        return depth_of(logits, shape.low, shape.high, bins=shape.bin_rule, norm=shape.norm)

    def forward(self, images: Tensor) -> Tensor:
        """Of any size."""
        return of_any_size(self.depth, images, self.backbone.stride)

    def loss(self, images: Tensor, truths: Tensor, *, warm: bool) -> dict[str, Tensor]:
        """SigLoss of ``truths [N, H, W]``, image by image: so the mean over parts of a batch is that of the whole.

        DINOv3's is over the pixels of a batch together. ``warm``: the error's mean alone, which is stable from the first step
        on. An image with fewer than two pixels between ``low`` and ``high`` counts as 0.
        """
        large = resized(self.depth(images), (truths.shape[1], truths.shape[2]))
        valid = valid_pixels(truths, self.shape.low, self.shape.high)[:, None]
        rows = [
            sig_loss(one, true[None], known, warm=warm) if int(known.sum()) > 1 else one.sum() * 0
            for one, true, known in zip(large, truths, valid, strict=True)
        ]
        return {"sig_loss": torch.stack(rows).mean()}
