"""Spread the class tokens of a batch evenly: push each one away from its nearest neighbour."""

from __future__ import annotations

from typing import Self

import torch

from dinov3.config.schema import Config
from dinov3.contracts import LossTerm, StepContext
from dinov3.losses.koleo import koleo, koleo_distributed
from dinov3.objectives.base import Objective, ObjectiveParts


class Koleo(Objective):
    """Kozachenko-Leonenko entropy estimate on each global crop's class tokens (Sablayrolles et al. 2019)."""

    state_name = "koleo_loss"
    joint_features = ("cls",)  # neighbours
    reads_every_patch = False

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self:
        return cls(cfg, parts.embed_dim)

    def __init__(self, cfg: Config, embed_dim: int) -> None:
        super().__init__()
        self.cfg = cfg.dino

    def weight_at(self, iteration: int) -> float:
        return self.cfg.koleo_loss_weight

    def forward(self, ctx: StepContext) -> LossTerm:
        crops = ctx.student_global.cls_pre_head  # [G, B, D]
        if self.cfg.koleo_loss_distributed:
            size = self.cfg.koleo_distributed_loss_group_size
            terms = [koleo_distributed(c, topk=self.cfg.koleo_topk, loss_group_size=size) for c in crops]
        else:
            terms = [koleo(c) for c in crops]
        total = torch.stack(terms).sum()
        return LossTerm(total, {"koleo_loss": total.detach() / len(terms)})
