"""A backbone with a head on it, whatever the head says."""

from __future__ import annotations

from typing import Self

from torch import nn

from dinov3.finetune.headed.groups import freeze
from dinov3.models.backbone import Backbone


class HeadedModel(nn.Module):
    """The backbone is always in eval mode: drop path and the jitter of positions are of pretraining."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.frozen = backbone, head, frozen
        freeze(backbone, frozen=frozen)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        return self
