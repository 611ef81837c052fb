"""Training a detector as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.detect.config import DetectConfig
from dinov3.detect.detector import Detector
from dinov3.detect.stream import DetectBatch
from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.groups import groups_of
from dinov3.finetune.tuned_task import TunedTask

Writes = Callable[[Detector, int], Callable[[Path], None]]  # of a detector after so many steps: what fills a folder


class DetectTask(TunedTask[DetectBatch, Detector]):
    """A ``Detector``."""

    def __init__(
        self,
        detector: Detector,
        cfg: DetectConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
    ) -> None:
        trained: dict[str, nn.Module] = {"head": detector.head}
        if not detector.frozen:
            trained = {"backbone": detector.backbone, **trained}
        super().__init__(detector, trained, precision, seed=cfg.train.seed, pretrained=pretrained, writes=writes)
        self.cfg = cfg

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.optim)

    def loss(self, batch: DetectBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            terms = self.tuned.loss(batch.images, batch.truths)
        return torch.stack([*terms.values()]).sum(), terms
