"""Pull the student's features towards those of another, frozen backbone of any width and patch size."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.schema import Config
from dinov3.engine.schedules import feature_weight_schedule
from dinov3.objectives.base import ObjectiveParts
from dinov3.objectives.feature_match import FeatureMatch

PROJECTOR = "feature_projector"


class FeatureProjector(nn.Module):
    """One linear map for CLS tokens and one for patches, from the student's width to the teacher's."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.cls = nn.Linear(in_dim, out_dim)
        self.patch = nn.Linear(in_dim, out_dim)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Truncated normal, std 0.02; zero bias."""
        for layer in (self.cls, self.patch):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, kind: str) -> Tensor:
        """``tokens [..., D]`` of ``kind`` cls or patch to ``[..., D']``."""
        layer = self.cls if kind == "cls" else self.patch
        return F.linear(tokens, layer.weight, layer.bias)


class FeatureDistillation(FeatureMatch):
    """Feature matching as in FitNets (Romero et al. 2015); the projector exists only when widths differ."""

    state_name = "feature_distillation"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self | None:
        return (
            cls(cfg, parts.embed_dim, parts.teacher_widths["feature_distillation"])
            if cfg.feature_distillation.enabled
            else None
        )

    def __init__(self, cfg: Config, embed_dim: int, teacher_dim: int) -> None:
        super().__init__(cfg.feature_distillation, feature_weight_schedule(cfg, "feature_distillation"))
        self.widths = embed_dim, teacher_dim

    def student_modules(self) -> dict[str, nn.Module]:
        return {PROJECTOR: FeatureProjector(*self.widths)} if self.widths[0] != self.widths[1] else {}

    def projected(self, heads: nn.ModuleDict, kind: str, tokens: Tensor) -> Tensor:
        if PROJECTOR not in heads:
            return tokens
        projector = heads[PROJECTOR]
        out: Tensor = projector(tokens, kind)
        return out
