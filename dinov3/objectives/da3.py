"""Make masked patch tokens predict, through a small MLP, the tokens Depth Anything 3 gives the clean crop there."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from dinov3.config.schema import Config
from dinov3.contracts import LossTerm, StepContext
from dinov3.distributed.collectives import all_reduce_sum
from dinov3.losses.cosine import cosine_loss
from dinov3.objectives.base import Objective, ObjectiveParts


class Da3Projector(nn.Sequential):
    """Linear, GELU, Linear from the student's width to the teacher's; initialised as the other heads are."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__(nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Truncated normal, std 0.02; zero bias."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)


class Da3(Objective):
    """Masked-image-modelling distillation: 1 - mean cosine of L2-normalised tokens, in fp32.

    ``weighting: mean`` is the mean over masked tokens, ``per_image`` the mean over masked crops of each one's mean; both
    over all processes.
    """

    state_name = "da3_mim_loss"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self | None:
        return cls(cfg, parts.embed_dim, parts.teacher_widths["da3"]) if cfg.da3.enabled else None

    def __init__(self, cfg: Config, embed_dim: int, teacher_dim: int) -> None:
        super().__init__()
        self.cfg = cfg.da3
        self.embed_dim = embed_dim
        self.teacher_dim = teacher_dim
        self.reads_every_patch = self.cfg.loss_on != "masked"
        if self.cfg.loss_on == "masked":
            self.joint_features = ("patches",)  # parts hide different numbers of tokens

    def student_modules(self) -> dict[str, nn.Module]:
        return {"da3_projector": Da3Projector(self.embed_dim, self.cfg.projector_hidden_dim, self.teacher_dim)}

    def weight_at(self, iteration: int) -> float:
        return self.cfg.loss_weight

    def forward(self, ctx: StepContext) -> LossTerm:
        teacher = ctx.teachers["da3"].tokens  # [M, D'] or [G*B*P, D']
        assert teacher is not None
        if self.cfg.loss_on == "masked":
            tokens = ctx.student_global.masked_patch_pre_head  # [M, D]
            weights = ctx.batch.masks_weight if self.cfg.weighting == "per_image" else None
        else:  # every crop has equally many tokens: the mean over tokens is the mean over images
            tokens = ctx.student_global.patches.flatten(0, 1)  # [G*B*P, D]
            weights = None
        projected = ctx.student_heads["da3_projector"](tokens)  # [M, D']
        if projected.shape != teacher.shape:
            raise ValueError(
                f"DA3 tokens {tuple(teacher.shape)} and projected student tokens {tuple(projected.shape)} differ"
            )
        loss = cosine_loss(projected, teacher, weights)
        return LossTerm(loss, {"da3_mim_loss": loss.detach(), **_statistics(projected, teacher)})


@torch.no_grad()
def _statistics(projected: Tensor, teacher: Tensor) -> dict[str, Tensor | float]:
    """Mean and standard deviation over the tokens of all processes; 0 without tokens. Every process has every key."""
    cosines = torch.cosine_similarity(projected.float(), teacher.float(), dim=-1).double()  # [M]
    norms = teacher.float().norm(dim=-1).double()  # [M]
    columns = torch.stack([torch.ones_like(norms), cosines, cosines**2, norms, norms**2])  # [5, M]
    count, *sums = all_reduce_sum(columns.sum(1)).unbind()
    cos, cos2, norm, norm2 = (x / count.clamp_min(1) for x in sums)
    return {
        "da3_cos_mean": cos,
        "da3_cos_std": (cos2 - cos**2).clamp_min(0).sqrt(),
        "da3_teacher_norm_mean": norm,
        "da3_teacher_norm_std": (norm2 - norm**2).clamp_min(0).sqrt(),
    }
