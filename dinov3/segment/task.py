"""Training a segmenter as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.groups import groups_of
from dinov3.finetune.tuned_task import TunedTask
from dinov3.segment.config import SegmentConfig
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.stream import SegmentBatch

Writes = Callable[[Segmenter, int], Callable[[Path], None]]  # of a segmenter after so many steps: what fills a folder


class SegmentTask(TunedTask[SegmentBatch, Segmenter]):
    """A ``Segmenter``."""

    def __init__(
        self,
        segmenter: Segmenter,
        cfg: SegmentConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
    ) -> None:
        trained: dict[str, nn.Module] = {"head": segmenter.head}
        if not segmenter.shape.frozen:
            trained = {"backbone": segmenter.backbone, **trained}
        super().__init__(segmenter, trained, precision, seed=cfg.train.seed, pretrained=pretrained, writes=writes)
        self.segmenter, self.cfg = segmenter, cfg

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.optim)

    def loss(self, batch: SegmentBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            terms = self.segmenter.loss(batch.images, batch.masks, self.cfg.train.ignore)
        return torch.stack([*terms.values()]).sum(), terms
