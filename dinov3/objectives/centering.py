"""How teacher logits become targets: Sinkhorn-Knopp, or a softmax around a moving centre."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from dinov3.config.derived import fused
from dinov3.config.schema import Config, DinoConfig, IbotConfig
from dinov3.contracts import Targets
from dinov3.losses.diagnostics import prototype_usage, target_entropy
from dinov3.losses.passes import Passes, choose
from dinov3.losses.sinkhorn import center_after, row_sums, sinkhorn_targets, softmax_targets
from dinov3.models.head import DINOHead
from dinov3.objectives.base import Objective

CENTER_MOMENTUM = 0.9


class CenteredObjective(Objective):
    """An objective with a head, whose targets are the teacher's prototype assignments (``train.centering``).

    ``center`` is all zeros and unused under Sinkhorn-Knopp; it exists because DINOv3's checkpoints have it.
    """

    reads_every_patch = False
    head_name: ClassVar[str]  # in the student and the EMA, hence in checkpoints
    center: Tensor

    def __init__(
        self, cfg: DinoConfig | IbotConfig, embed_dim: int, whole: Config, center_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.head_cfg, self.embed_dim, self.centering = cfg, embed_dim, whole.train.centering
        self.log_every, self.whole_cfg = whole.train.log_every, whole
        self.register_buffer("center", torch.full(center_shape, float("nan")))
        self._seen: tuple[Tensor, Tensor] | None = None  # sum and number of this step's rows

    def student_modules(self) -> dict[str, nn.Module]:
        return {self.head_name: self._head()}

    def ema_modules(self) -> dict[str, nn.Module]:
        return {self.head_name: self._head()}

    def _head(self) -> DINOHead:
        cfg = self.head_cfg
        return DINOHead(
            self.embed_dim,
            cfg.head_n_prototypes,
            hidden_dim=cfg.head_hidden_dim,
            bottleneck_dim=cfg.head_bottleneck_dim,
            nlayers=cfg.head_nlayers,
            last_layer_std=cfg.head_last_layer_std,
        )

    def weight_at(self, iteration: int) -> float:
        return self.head_cfg.loss_weight

    def init_weights(self) -> None:
        nn.init.zeros_(self.center)

    def passes(self, logits: Tensor) -> Passes:
        """The form in which logits on this device are worked on."""
        return choose(fused(self.whole_cfg, logits.device.type))

    def targets(self, logits: Tensor, temperature: float) -> Targets:
        """Prototype assignments of teacher logits ``[..., K]``; Sinkhorn-Knopp balances all rows of all processes together."""
        if self.centering == "sinkhorn_knopp":
            return sinkhorn_targets(logits, temperature, passes=self.passes(logits))
        sums = row_sums(logits)
        self._seen = sums if self._seen is None else (self._seen[0] + sums[0], self._seen[1] + sums[1])
        return softmax_targets(logits, temperature, self.center, passes=self.passes(logits))

    def health(self, targets: Targets, iteration: int, prefix: str) -> dict[str, Tensor | float]:
        """Entropy (nats) and variety of the targets, on the steps that are logged."""
        if iteration % self.log_every:
            return {}
        passes = self.passes(targets.logits)
        return {
            f"{prefix}_teacher_entropy": target_entropy(targets, passes),
            f"{prefix}_prototype_usage": prototype_usage(targets, passes),
        }

    def before_step(self) -> None:
        """Forget the logits of a step that was skipped."""
        self._seen = None

    def after_step(self) -> None:
        """Move the centre by the logits of the step just taken (Caron et al. 2021, eq. 4)."""
        if self._seen is not None:
            self.center.copy_(center_after(self.center, *self._seen, CENTER_MOMENTUM))
