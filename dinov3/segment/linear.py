"""The linear head: one 1x1 convolution on the patches of the last layer."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.dense.linear_head import LinearHead
from dinov3.dense.windows import resized
from dinov3.models.backbone import Backbone


class Linear(nn.Module):
    """``dinov3.dense.linear_head`` without batch norm: its statistics would depend on how a batch is shared out."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.linear = LinearHead([width], classes, batchnorm=False, dropout=dropout)

    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""
        with torch.no_grad():
            weight = self.linear.conv.weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
            assert self.linear.conv.bias is not None
            self.linear.conv.bias.zero_()

    def forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Logits ``[N, K, h, w]`` on the grid of patches."""
        found = cast(Features, backbone(images, is_training=True))
        logits: Tensor = self.linear([found.patches.mT.unflatten(2, found.grid)])
        return logits

    def loss(self, backbone: Backbone, images: Tensor, masks: Tensor, ignore: int) -> dict[str, Tensor]:
        """Cross entropy of the logits at the size of ``masks [N, H, W]``, averaged over all pixels, unlabelled ones as 0: so
        the mean over parts of a batch is that of the whole."""
        logits = resized(self(backbone, images).float(), (masks.shape[1], masks.shape[2]))
        summed = F.cross_entropy(logits, masks.long(), ignore_index=ignore, reduction="sum")
        return {"cross_entropy_loss": summed / masks.numel()}

    def scores(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Per class ``[N, K, h, w]``, the largest wins: the logits."""
        logits: Tensor = self(backbone, images).float()
        return logits
