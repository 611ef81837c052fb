"""A classifier as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from dinov3.finetune.classifier_file import load_classifier
from dinov3.finetune.headed.graph import Graph, Outputs, feeding, in_float32


class Logits(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        logits: Tensor = self.tuned(images)
        return (logits,)


def graph_of(path: Path) -> Graph:
    """Of the classifier at ``path``. Its temperature is in the file's metadata, not in the logits."""
    classifier, about = load_classifier(path)
    backbone = classifier.backbone
    told = {**asdict(about), **feeding(backbone)}
    notes = in_float32(classifier)
    if about.stain:
        notes.append("it was trained on stain-normalised images: normalise yours the same way first")
    size = (about.size, about.size)
    return Graph(Logits(classifier), backbone.in_chans, size, {"logits": f"[N, {about.classes}]"}, told, notes)
