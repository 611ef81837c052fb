"""Fine-tuning a classifier as a task of the trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.engine.module_task import ModuleTask
from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.classifier import Classifier, groups_of, smoothed_cross_entropy
from dinov3.finetune.config import ClassifyConfig
from dinov3.finetune.stream import LabelledBatch

Writes = Callable[[Classifier, int], Callable[[Path], None]]  # of a classifier after so many steps: what fills a folder


class FinetuneTask(ModuleTask[LabelledBatch]):
    """A ``Classifier``. What does not train is in no checkpoint's state: it is in the backbone's file beside it."""

    def __init__(
        self,
        classifier: Classifier,
        cfg: ClassifyConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
    ) -> None:
        """``pretrained``: which weights the backbone began with. ``writes``: what a checkpoint's folder is filled by."""
        self.classifier = classifier.to(precision.device)
        self.cfg, self.precision, self.steps_done = cfg, precision, 0
        self._pretrained, self._writes = pretrained, writes
        trained: dict[str, nn.Module] = {"head": classifier.head}
        if any(p.requires_grad for p in classifier.backbone.parameters()):
            trained = {"backbone": classifier.backbone, **trained}
        super().__init__(nn.ModuleDict(trained), precision.device, seed=cfg.train.seed)
        self.classifier.train()  # after the line above, which puts the backbone into train mode

    @property
    def on_features(self) -> bool:
        """Whether batches are cached features: only the head trains, and every image looks the same each time."""
        augment = self.cfg.augment
        still = augment.preset == "none" and augment.scale == [1, 1] and not augment.stain
        return "backbone" not in self.trained and still

    def groups(self) -> list[ParamGroup]:
        return groups_of(self.trained, self.cfg.model, self.cfg.optim)

    def loss(self, batch: LabelledBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy, with smoothed labels; the share of the batch that is right."""
        with self.precision.autocast():
            logits = self.classifier.head(batch.images) if self.on_features else self.classifier(batch.images)
        value = smoothed_cross_entropy(logits, batch.labels, self.cfg.train.label_smoothing)
        right = (logits.argmax(1) == batch.labels).float().mean()
        return value, {"cross_entropy_loss": value, "train_accuracy": right}

    def before_step(self, step: int) -> None:
        self.steps_done = step + 1

    def state(self) -> dict[str, Tensor]:
        """What trains; a frozen backbone with trained norms is whole, so that it cannot be mixed with another."""
        return {name: tensor.detach() for name, tensor in self.trained.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        return {"pretrained": self._pretrained}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        """The classifier as it is now, with the backbone as a file of its own."""
        return self._writes(self.classifier if not copy else snapshot(self.classifier), self.steps_done)


def snapshot(classifier: Classifier) -> Classifier:
    """A copy on the CPU that training does not change."""
    with torch.no_grad():
        return copy.deepcopy(classifier).cpu()
