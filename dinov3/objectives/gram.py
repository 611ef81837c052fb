"""Keep the student's patch-to-patch similarities close to those of an older teacher."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, LossTerm, StepContext
from dinov3.data.randomness import digest
from dinov3.distributed.context import rank
from dinov3.engine.schedules import loss_weight_schedule
from dinov3.losses.gram import gram_loss, negatives_rule
from dinov3.objectives.base import Objective, ObjectiveParts


class Gram(Objective):
    """Gram anchoring (Siméoni et al. 2025, section 4): stops patch features from decaying in long training."""

    state_name = "gram_loss"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self | None:
        return cls(cfg, parts.embed_dim) if cfg.gram.use_loss else None

    def __init__(self, cfg: Config, embed_dim: int) -> None:
        super().__init__()
        self.cfg, self.seed = cfg.gram, cfg.train.seed
        self.schedule = loss_weight_schedule(cfg)
        if not self.cfg.img_level or self.cfg.tokens_used != "all":
            self.joint_features = ("patches",)  # similarities between images, or images of unequal weight
        self.negatives = negatives_rule(
            self.cfg.remove_neg, self.cfg.remove_only_teacher_neg, self.cfg.remove_only_teacher_neg_rule
        )

    def weight_at(self, iteration: int) -> float:
        return self.schedule[iteration]

    def forward(self, ctx: StepContext) -> LossTerm:
        student = ctx.student_global.patches  # [G*B, P, D]
        if "gram" not in ctx.teachers:  # the teacher has no weights yet
            return LossTerm(student.sum() * 0, {})
        teacher = ctx.teachers["gram"].patches  # [G*B, P, D]
        assert teacher is not None
        chosen = select(student, teacher, ctx.batch, self.cfg.tokens_used)
        value = self._loss(*chosen, ctx.iteration, img_level=self.cfg.img_level)
        metrics: dict[str, Tensor | float] = {
            "gram_loss_weight": self.weight_at(ctx.iteration),
            "gram_loss": value.detach(),
        }
        if self.cfg.compute_stats:
            with torch.no_grad():
                for tokens in ("masked", "unmasked"):
                    pair = select(student, teacher, ctx.batch, tokens)
                    metrics[f"stats_only/{tokens}_gram_loss"] = self._loss(*pair, ctx.iteration, img_level=False)
        return LossTerm(value, metrics)

    def _loss(self, student: Tensor, teacher: Tensor, iteration: int, *, img_level: bool) -> Tensor:
        draws = digest(self.seed, "gram tokens", iteration, rank(), size=8)
        return gram_loss(
            student,
            teacher,
            normalize=self.cfg.normalized,
            img_level=img_level,
            negatives=self.negatives,
            max_tokens=self.cfg.max_tokens,
            generator=torch.Generator().manual_seed(int.from_bytes(draws, "little") >> 1),
        )


def select(student: Tensor, teacher: Tensor, batch: CropBatch, tokens: str) -> tuple[Tensor, Tensor]:
    """All tokens ``[N, P, D]``, or the masked or unmasked ones of the whole batch ``[M, D]``, in their order.

    The host knows how many there are, so that it need not wait for the device to count them.
    """
    if tokens == "all":
        return student, teacher
    index = batch.mask_indices_list  # [M] into the flattened masks, ascending
    if tokens == "unmasked":
        masks = batch.collated_masks.flatten()
        index = masks.to(torch.uint8).argsort(stable=True)[: len(masks) - len(index)]
    return student.flatten(0, 1).index_select(0, index), teacher.flatten(0, 1).index_select(0, index)
