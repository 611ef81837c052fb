"""Let each masked patch predict the prototypes the EMA teacher assigns to the same patch unmasked."""

from __future__ import annotations

from typing import Self

from dinov3.config.schema import Config
from dinov3.contracts import LossTerm, StepContext
from dinov3.losses.cross_entropy import ibot_cross_entropy
from dinov3.objectives.base import ObjectiveParts
from dinov3.objectives.centering import CenteredObjective

STUDENT_TEMP = 0.1


class Ibot(CenteredObjective):
    """Masked patch tokens against the teacher's (Zhou et al. 2022, with a head of its own as in DINOv2)."""

    state_name = "ibot_patch_loss"
    head_name = "ibot_head"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self:
        return cls(cfg, parts.embed_dim)

    def __init__(self, cfg: Config, embed_dim: int) -> None:
        super().__init__(cfg.ibot, embed_dim, cfg, (1, 1, cfg.ibot.head_n_prototypes))

    def forward(self, ctx: StepContext) -> LossTerm:
        logits = ctx.student_global.masked_patch_after_head  # [M, K]
        assert logits is not None
        targets = ctx.teachers["ema"].patch_targets  # [M, K]
        assert targets is not None
        loss = ibot_cross_entropy(
            logits,
            targets,
            masks_weight=ctx.batch.masks_weight,
            n_images=ctx.batch.collated_masks.shape[0],
            student_temp=STUDENT_TEMP,
            passes=self.passes(targets.logits),
        )
        return LossTerm(loss, {"ibot_loss": loss.detach(), **self.health(targets, ctx.iteration, "ibot")})
