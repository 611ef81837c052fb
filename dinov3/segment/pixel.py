"""Heads that say a class of every place of a map: a linear one on patches, and DPT's decoder on four layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.dense.dpt import Dpt, levels_of
from dinov3.dense.linear_head import LinearHead, last_patches
from dinov3.dense.windows import resized
from dinov3.models.backbone import Backbone


class PixelHead(nn.Module, ABC):
    """Logits on some grid, compared with the mask at its own size."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""

    @abstractmethod
    def forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        """Logits ``[N, K, h, w]`` of images ``[N, C, H, W]``."""

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


class Linear(PixelHead):
    """``dinov3.dense.linear_head`` without batch norm: its statistics would depend on how a batch is shared out."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.linear = LinearHead([width], classes, batchnorm=False, dropout=dropout)

    def init_weights(self, generator: torch.Generator) -> None:
        self.linear.init_weights(generator)

    def forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        """On the grid of patches."""
        logits: Tensor = self.linear([last_patches(backbone, images)])
        return logits


class DptHead(PixelHead):
    """``dinov3.dense.dpt`` with a channel a class."""

    def __init__(self, embed_dim: int, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dpt = Dpt(embed_dim, classes, width, dropout)

    def init_weights(self, generator: torch.Generator) -> None:
        self.dpt.init_weights(generator)

    def forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        """On eight times the grid of patches a side."""
        logits: Tensor = self.dpt(levels_of(backbone, images))
        return logits
