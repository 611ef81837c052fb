"""Recovery as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from dinov3.compress.recovery.config import RecoveryLossConfig
from dinov3.compress.recovery.loss import recovery_loss
from dinov3.compress.recovery.pair import Pair
from dinov3.contracts import Features
from dinov3.engine.precision import Precision
from dinov3.finetune.stream import LabelledBatch
from dinov3.finetune.tuned_task import TunedTask
from dinov3.models.backbone import Backbone
from dinov3.weights.own import write_backbone


class Student(nn.Module):
    """A backbone that trains and is in eval mode: drop path and the jitter of positions are of pretraining."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        return self


class RecoveryTask(TunedTask[LabelledBatch, Student]):
    """The compressed model of ``pair``, drawn to the tokens of the other."""

    def __init__(self, pair: Pair, cfg: RecoveryLossConfig, precision: Precision, seed: int) -> None:
        def writes(student: Student, step: int) -> Callable[[Path], None]:
            return lambda folder: write_backbone(folder, student.backbone, pair.facts.preprocess, pair.facts.provenance)

        student = Student(pair.student)
        trained = {"backbone": student.backbone}
        super().__init__(student, trained, precision, seed=seed, pretrained=pair.pretrained, writes=writes)
        self.teacher, self.cfg = pair.teacher.to(precision.device), cfg
        self._teacher_sha256 = pair.teacher_sha256

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "teacher": self._teacher_sha256}

    def loss(self, batch: LabelledBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            with torch.no_grad():
                wanted: Any = self.teacher(batch.images, is_training=True)
            found = cast(Features, self.tuned.backbone(batch.images, is_training=True))
        value = recovery_loss(found, wanted, cls_weight=self.cfg.cls_weight, patch_weight=self.cfg.patch_weight)
        return value, {"recovery_loss": value}
