"""A segmenter as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from dinov3.finetune.headed.graph import Graph, Outputs, feeding, in_float32
from dinov3.segment.segmenter_file import load_segmenter


class Scores(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        scores: Tensor = self.tuned(images)
        return (scores,)


def graph_of(path: Path) -> Graph:
    """Of the segmenter at ``path``, for windows of the size it was trained on."""
    segmenter, about = load_segmenter(path)
    backbone = segmenter.backbone
    told = {**asdict(about), **feeding(backbone)}
    notes = in_float32(segmenter)
    meaning = f"[N, {about.classes}, {about.crop}, {about.crop}]: of the classes at each pixel the largest wins"
    size = (about.crop, about.crop)
    return Graph(Scores(segmenter), backbone.in_chans, size, {"scores": meaning}, told, notes)
