"""A classifier as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dinov3.finetune.classifier_file import load_classifier
from dinov3.finetune.headed.graph import Graph, Outputs, headed_graph


class Logits(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        logits: Tensor = self.tuned(images)
        return (logits,)


def graph_of(path: Path) -> Graph:
    """Of the classifier at ``path``. Its temperature is in the file's metadata, not in the logits."""
    classifier, about = load_classifier(path)
    stained = "it was trained on stain-normalised images: normalise yours the same way first"
    meanings, notes = {"logits": f"[N, {about.classes}]"}, [stained] if about.stain else []
    return headed_graph(Logits, classifier, about, (about.size, about.size), meanings, notes)
