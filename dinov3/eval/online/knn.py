"""k-NN accuracy of the EMA backbone's CLS tokens, and how far it may fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dinov3.engine.look import Row
from dinov3.eval.knn import knn_accuracy
from dinov3.eval.online.labelled import LabelledLook
from dinov3.eval.online.scene import Scene


class Knn(LabelledLook):
    name = "knn"

    def measure(self, scene: Scene) -> dict[str, Any]:
        settings, (train, labels, test, test_labels) = self.cfg.evaluation.knn, scene.labelled
        accuracy = knn_accuracy(train, labels, test, test_labels, k=settings.k, temperature=settings.temperature)
        return {"knn_accuracy": accuracy}

    def stop(self, rows: Sequence[Row]) -> str | None:
        most = self.cfg.evaluation.knn.max_drop
        before, now = rows[0].get("knn_accuracy"), rows[-1].get("knn_accuracy")
        if most is None or before is None or now is None or now >= before - most:
            return None
        return (
            f"k-NN accuracy fell from {100 * before:.1f} % to {100 * now:.1f} %, "
            f"by more than evaluation.knn.max_drop {most:g}"
        )

    def sentence(self, rows: Sequence[Row]) -> str | None:
        """Both accuracies, when they were measured."""
        measured = [row for row in rows if "knn_accuracy" in row]
        if len(measured) < 2:
            return None
        first, last, student = measured[0], measured[-1], self.cfg.student
        trained = self.cfg.start.run or student.pretrained_weights or student.resume_from_teacher_chkpt
        fitted = "with its fitted stem alone" if student.stem == "whitened" else "untrained"
        began = "at the start" if trained else fitted
        return (
            f"k-NN accuracy of the EMA backbone: {100 * first['knn_accuracy']:.1f} % {began}, "
            f"{100 * last['knn_accuracy']:.1f} % after {last['step']} steps"
        )
