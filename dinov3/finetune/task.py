"""Fine-tuning a classifier as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dinov3.engine.optim import ParamGroup
from dinov3.engine.precision import Precision
from dinov3.finetune.classifier import Classifier, groups_of, smoothed_cross_entropy
from dinov3.finetune.config import ClassifyConfig
from dinov3.finetune.stream import LabelledBatch
from dinov3.finetune.tuned_task import TunedTask

Writes = Callable[[Classifier, int], Callable[[Path], None]]  # of a classifier after so many steps: what fills a folder


class FinetuneTask(TunedTask[LabelledBatch, Classifier]):
    """A ``Classifier``."""

    def __init__(
        self,
        classifier: Classifier,
        cfg: ClassifyConfig,
        precision: Precision,
        pretrained: dict[str, Any] | None,
        writes: Writes,
    ) -> None:
        trained: dict[str, nn.Module] = {"head": classifier.head}
        if any(p.requires_grad for p in classifier.backbone.parameters()):
            trained = {"backbone": classifier.backbone, **trained}
        super().__init__(classifier, trained, precision, seed=cfg.train.seed, pretrained=pretrained, writes=writes)
        self.classifier, self.cfg = classifier, cfg

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
