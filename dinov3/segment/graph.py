"""A segmenter as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dinov3.finetune.headed.graph import Graph, Outputs, headed_graph
from dinov3.segment.segmenter_file import load_segmenter


class Scores(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        scores: Tensor = self.tuned(images)
        return (scores,)


def graph_of(path: Path) -> Graph:
    """Of the segmenter at ``path``, for windows of the size it was trained on."""
    segmenter, about = load_segmenter(path)
    meaning = f"[N, {about.classes}, {about.crop}, {about.crop}]: of the classes at each pixel the largest wins"
    return headed_graph(Scores, segmenter, about, (about.crop, about.crop), {"scores": meaning})
