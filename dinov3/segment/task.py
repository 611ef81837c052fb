"""Training a segmenter as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.engine.module_task import ModuleTask
from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.segment.config import SegmentConfig
from dinov3.segment.segmenter import Segmenter, groups_of, snapshot
from dinov3.segment.stream import SegmentBatch

Writes = Callable[[Segmenter, int], Callable[[Path], None]]  # of a segmenter after so many steps: what fills a folder


class SegmentTask(ModuleTask[SegmentBatch]):
    """A ``Segmenter``. A frozen backbone is in no checkpoint's state: it is in the backbone's file beside it."""

    def __init__(
        self,
        segmenter: Segmenter,
        cfg: SegmentConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
    ) -> None:
        """``pretrained``: which weights the backbone began with. ``writes``: what a checkpoint's folder is filled by."""
        self.segmenter = segmenter.to(precision.device)
        self.cfg, self.precision, self.steps_done = cfg, precision, 0
        self._pretrained, self._writes = pretrained, writes
        trained: dict[str, nn.Module] = {"head": segmenter.head}
        if not segmenter.shape.frozen:
            trained = {"backbone": segmenter.backbone, **trained}
        super().__init__(nn.ModuleDict(trained), precision.device, seed=cfg.train.seed)
        self.segmenter.train()  # after the line above, which puts the backbone into train mode

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.optim)

    def loss(self, batch: SegmentBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self.precision.autocast():
            terms = self.segmenter.loss(batch.images, batch.masks, self.cfg.train.ignore)
        return torch.stack([*terms.values()]).sum(), terms

    def before_step(self, step: int) -> None:
        self.steps_done = step + 1

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.trained.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        return {"pretrained": self._pretrained}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        """The segmenter as it is now, with the backbone as a file of its own."""
        return self._writes(snapshot(self.segmenter) if copy else self.segmenter, self.steps_done)
