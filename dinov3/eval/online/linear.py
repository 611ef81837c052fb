"""Accuracy of a linear probe on the EMA backbone's CLS tokens."""

from __future__ import annotations

from typing import Any

from dinov3.eval.linear import fit_linear
from dinov3.eval.online.labelled import LabelledLook
from dinov3.eval.online.scene import Scene


class Linear(LabelledLook):
    name = "linear"

    def due(self, step: int, *, ends: bool) -> bool:
        return self.cfg.evaluation.knn.linear and super().due(step, ends=ends)

    def measure(self, scene: Scene) -> dict[str, Any]:
        train, labels, test, test_labels = scene.labelled
        n_classes = int(max(labels.max(), test_labels.max())) + 1
        epochs, seed = self.cfg.evaluation.knn.linear_epochs, self.cfg.train.seed
        probe = fit_linear(train, labels, n_classes=n_classes, epochs=epochs, seed=seed)
        return {
            "linear_accuracy": float((probe(test).argmax(1) == test_labels).float().mean()),
            "linear_learning_rate": probe.learning_rate,
        }
