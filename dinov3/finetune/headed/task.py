"""Training a backbone with a head as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.building import Built
from dinov3.finetune.headed.config import Headed
from dinov3.finetune.headed.groups import groups_of
from dinov3.finetune.headed.product import M
from dinov3.finetune.headed.stream import ViewBatch
from dinov3.finetune.tuned_task import TunedTask

Terms = Callable[
    [M, ViewBatch, int], dict[str, Tensor]
]  # of a model, a batch and the step: what the loss is the sum of


class HeadedTask(TunedTask[ViewBatch, M]):
    """The model of ``built``."""

    def __init__(self, built: Built[M, Any], cfg: Headed, precision: Precision, terms: Terms[M]) -> None:
        model = built.model
        trained: dict[str, nn.Module] = {"head": model.head}
        if not model.frozen:
            trained = {"backbone": model.backbone, **trained}
        seed, writes = cfg.train.seed, built.writes
        super().__init__(model, trained, precision, seed=seed, pretrained=built.pretrained, writes=writes)
        self.cfg, self.terms = cfg, terms

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.optim)

    def loss(self, batch: ViewBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            terms = self.terms(self.tuned, batch, step)
        return torch.stack([*terms.values()]).sum(), terms
