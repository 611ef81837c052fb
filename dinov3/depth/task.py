"""Training an estimator as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.dense.depth_losses import WARM_UP_CALLS
from dinov3.depth.config import DepthConfig
from dinov3.depth.estimator import Estimator
from dinov3.depth.stream import DepthBatch
from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.groups import groups_of
from dinov3.finetune.tuned_task import TunedTask

Writes = Callable[[Estimator, int], Callable[[Path], None]]  # of an estimator after so many steps: what fills a folder


class DepthTask(TunedTask[DepthBatch, Estimator]):
    """An ``Estimator``."""

    def __init__(
        self,
        estimator: Estimator,
        cfg: DepthConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
        steps: int,
    ) -> None:
        """``steps``: of the whole run; of a short one the warm-up of the loss must not be all."""
        trained: dict[str, nn.Module] = {"head": estimator.head}
        if not estimator.shape.frozen:
            trained = {"backbone": estimator.backbone, **trained}
        super().__init__(estimator, trained, precision, seed=cfg.train.seed, pretrained=pretrained, writes=writes)
        self.cfg, self.warm_steps = cfg, min(WARM_UP_CALLS, steps // 10)

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.optim)

    def loss(self, batch: DepthBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            terms = self.tuned.loss(batch.images, batch.depths, warm=step < self.warm_steps)
        return torch.stack([*terms.values()]).sum(), terms
