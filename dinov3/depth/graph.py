"""An estimator as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from dinov3.depth.estimator_file import load_estimator
from dinov3.finetune.headed.graph import Graph, Outputs, feeding, in_float32


class Metres(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        depth: Tensor = self.tuned(images)
        return (depth,)


def graph_of(path: Path) -> Graph:
    """Of the estimator at ``path``, for images of the size of its crops."""
    estimator, about = load_estimator(path)
    backbone = estimator.backbone
    told = {**asdict(about), **feeding(backbone)}
    notes = in_float32(estimator)
    size = (about.crop_height, about.crop_width)
    return Graph(Metres(estimator), backbone.in_chans, size, {"depth": f"[N, 1, {size[0]}, {size[1]}] m"}, told, notes)
