"""How teacher logits become targets: Sinkhorn-Knopp, or a softmax around a moving centre."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3.losses.sinkhorn import Targets, center_update, sinkhorn_targets, softmax_targets
from dinov3.objectives.base import Objective

CENTER_MOMENTUM = 0.9


class CenteredObjective(Objective):
    """An objective whose targets are prototype assignments of the teacher (``train.centering``).

    ``center`` is all zeros and unused under Sinkhorn-Knopp; it exists because DINOv3's checkpoints have it.
    """

    center: Tensor

    def __init__(self, centering: str, center_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.centering = centering
        self.register_buffer("center", torch.full(center_shape, float("nan")))
        self._seen: Tensor | None = None

    def init_weights(self) -> None:
        nn.init.zeros_(self.center)

    def targets(self, logits: Tensor, temperature: float) -> Targets:
        """Prototype assignments of teacher logits ``[..., K]``; Sinkhorn-Knopp balances all rows of all processes together."""
        if self.centering == "sinkhorn_knopp":
            return sinkhorn_targets(logits, temperature)
        self._seen = logits.detach()
        return softmax_targets(logits, temperature, self.center)

    def after_step(self) -> None:
        """Move the centre by the logits of the step just taken (Caron et al. 2021, eq. 4)."""
        if self._seen is not None:
            self.center.copy_(center_update(self.center, self._seen, CENTER_MOMENTUM))
            self._seen = None
