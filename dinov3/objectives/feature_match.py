"""Make the student's tokens those of a frozen backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3.config.schema import FeatureAnchorConfig, FeatureDistillationConfig
from dinov3.contracts import LossTerm, StepContext
from dinov3.engine.schedules import Schedule
from dinov3.losses.cosine import cosine_loss
from dinov3.losses.relative_l2 import relative_l2_loss
from dinov3.objectives.base import Objective

LOSSES = {"cosine": cosine_loss, "l2": relative_l2_loss}


class FeatureMatch(Objective):
    """Mean distance of CLS tokens and of patch tokens to those of the teacher named as the objective is."""

    cfg: FeatureAnchorConfig | FeatureDistillationConfig

    def __init__(self, cfg: FeatureAnchorConfig | FeatureDistillationConfig, schedule: Schedule) -> None:
        super().__init__()
        self.cfg, self.schedule = cfg, schedule
        if cfg.tokens != "all" and cfg.patch_weight:
            self.joint_features = ("cls", "patches")  # parts of a batch hide different numbers of patches

    def weight_at(self, iteration: int) -> float:
        return self.schedule[iteration]

    def projected(self, heads: nn.ModuleDict, kind: str, tokens: Tensor) -> Tensor:
        """Student tokens in the teacher's width."""
        return tokens

    def forward(self, ctx: StepContext) -> LossTerm:
        name, cfg, view = self.state_name, self.cfg, ctx.student_global
        teacher = ctx.teachers[name]
        assert teacher.cls is not None
        assert teacher.patches is not None
        distance = LOSSES[cfg.loss]
        value = torch.zeros((), device=teacher.cls.device)
        metrics: dict[str, Tensor | float] = {}
        masks = ctx.batch.collated_masks  # [G*B, P]
        kinds = {
            "cls": (cfg.cls_weight, view.cls_pre_head.flatten(0, 1), None),
            "patch": (
                cfg.patch_weight,
                view.patches,
                None if cfg.tokens == "all" else masks == (cfg.tokens == "masked"),
            ),
        }
        for kind, (weight, tokens, chosen) in kinds.items():
            if not weight:
                continue
            wanted = teacher.cls if kind == "cls" else teacher.patches
            ours = self.projected(ctx.student_heads, kind, tokens)
            rows = None if chosen is None else chosen.float()
            loss = distance(ours, wanted, rows)
            value = value + weight * loss
            apart = loss if cfg.loss == "cosine" else cosine_loss(ours, wanted, rows)
            metrics[f"{name}_{kind}_cosine"] = 1 - apart.detach()
        return LossTerm(
            value, {f"{name}_loss": value.detach(), f"{name}_loss_weight": self.weight_at(ctx.iteration), **metrics}
        )
