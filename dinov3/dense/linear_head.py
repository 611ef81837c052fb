"""The linear head of DINOv3's dense evaluations: dropout, batch norm, one 1x1 convolution on patch features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.dense.windows import Size, resized
from dinov3.models.backbone import Backbone

Level = Tensor | tuple[Tensor, Tensor]  # patches [N, D, h, w], or with the class token [N, D]


def last_patches(backbone: Backbone, images: Tensor) -> Tensor:
    """Patches of the last layer as a map ``[N, D, h, w]``."""
    found = cast(Features, backbone(images, is_training=True))
    return found.patches.mT.unflatten(2, found.grid)


class LinearHead(nn.Module):
    """Logits of patch features of one or several layers. Names of parameters are the official ones.

    Levels are resized to the first one's grid and concatenated; with ``cls_token`` each level is followed by its class
    token, the same at every place.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        classes: int,
        *,
        batchnorm: bool = True,
        cls_token: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = sum(in_channels) * (2 if cls_token else 1)
        self.cls_token = cls_token
        self.dropout = nn.Dropout2d(dropout)
        self.batchnorm_layer = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        self.conv = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""
        self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) * 0.01)
        assert self.conv.bias is not None
        self.conv.bias.zero_()

    def joined(self, levels: Sequence[Level]) -> Tensor:
        """All levels as one map ``[N, width, h, w]``. ValueError when class tokens are missing or not wanted."""
        if any(isinstance(level, tuple) != self.cls_token for level in levels):
            raise ValueError(
                f"cls_token={self.cls_token}: each level is {'patches and cls' if self.cls_token else 'patches'}"
            )
        parts: list[Tensor] = []
        for level in levels:
            patches = level[0] if isinstance(level, tuple) else level
            if not parts:
                size = (patches.shape[-2], patches.shape[-1])
            parts.append(resized(patches, size))
            if isinstance(level, tuple):
                parts.append(level[1][:, :, None, None].expand(-1, -1, *size))
        return torch.cat(parts, dim=1)

    def forward(self, levels: Sequence[Level]) -> Tensor:
        """Logits ``[N, classes, h, w]`` on the grid of the first level."""
        logits: Tensor = self.conv(self.batchnorm_layer(self.dropout(self.joined(levels))))
        return logits

    def predict(self, levels: Sequence[Level], size: Size) -> Tensor:
        """Logits at ``size``, without dropout.

        The logits are resized, not the features: for a 1x1 convolution the two agree, and this is
        width / classes times less work (bilinear weights sum to 1).
        """
        logits: Tensor = self.conv(self.batchnorm_layer(self.joined(levels)))
        return resized(logits, size)
