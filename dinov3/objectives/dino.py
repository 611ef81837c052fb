"""Let the class token of each crop predict the prototypes the EMA teacher assigns to the other global crops."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from dinov3.config.schema import Config
from dinov3.contracts import LossTerm, StepContext
from dinov3.engine.schedules import local_loss_weight_schedule
from dinov3.losses.cross_entropy import dino_cross_entropy
from dinov3.losses.diagnostics import feature_spread
from dinov3.objectives.base import ObjectiveParts
from dinov3.objectives.centering import CenteredObjective

STUDENT_TEMP = 0.1


class Dino(CenteredObjective):
    """Global crops against each other, local crops against the global ones (Oquab et al. 2023; Caron et al. 2021)."""

    state_name = "dino_loss"
    head_name = "dino_head"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self:
        return cls(cfg, parts.embed_dim)

    def __init__(self, cfg: Config, embed_dim: int) -> None:
        super().__init__(cfg.dino, embed_dim, cfg, (1, cfg.dino.head_n_prototypes))
        self.cfg = cfg.dino
        self.local_weight = local_loss_weight_schedule(cfg)

    def forward(self, ctx: StepContext) -> LossTerm:
        ema = ctx.teachers["ema"]
        targets, cls = ema.cls_targets, ema.cls  # [G, B, K], [G*B, D]
        assert targets is not None  # the EMA, or the model that is distilled, always has both
        assert cls is not None
        student_global, student_local = ctx.student_global.cls_after_head, ctx.student_local.cls_after_head
        n_global, n_local = student_global.shape[0], student_local.shape[0]
        ignore_diagonal = self.cfg.global_ignore_diagonal
        passes = self.passes(targets.logits)
        global_loss = dino_cross_entropy(
            student_global, targets, STUDENT_TEMP, ignore_diagonal=ignore_diagonal, passes=passes
        )
        global_terms = n_global * (n_global - 1 if ignore_diagonal else n_global)
        local_terms = n_global * n_local
        local_weight = self.local_weight[ctx.iteration]
        metrics: dict[str, Tensor | float] = {"dino_global_crops_loss": global_loss.detach()}
        if health := self.health(targets, ctx.iteration, "dino"):
            metrics |= health | {
                # every target row counts equally in the loss, so this is the mean of their divergences
                "dino_teacher_student_kl": global_loss.detach() - health["dino_teacher_entropy"],
                "cls_spread": feature_spread(cls),
            }
        value = global_loss * (global_terms / (global_terms + local_terms))
        if n_local:
            local_loss = dino_cross_entropy(student_local, targets, STUDENT_TEMP, passes=passes)
            value = value + local_weight * local_loss * (local_terms / (global_terms + local_terms))
            metrics |= {"dino_local_crops_loss": local_loss.detach(), "dino_local_loss_weight": local_weight}
        return LossTerm(value, metrics)
