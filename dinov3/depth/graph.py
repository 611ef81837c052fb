"""An estimator as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dinov3.depth.estimator_file import load_estimator
from dinov3.finetune.headed.graph import Graph, Outputs, headed_graph


class Metres(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        depth: Tensor = self.tuned(images)
        return (depth,)


def graph_of(path: Path) -> Graph:
    """Of the estimator at ``path``, for images of the size of its crops."""
    estimator, about = load_estimator(path)
    size = (about.crop_height, about.crop_width)
    mirrored = ", and the mean with their mirror image," if about.flip else ""
    note = (
        f"`dinov3 finetune evaluate` scores whole images{mirrored} also where they are larger than this graph's input"
    )
    return headed_graph(Metres, estimator, about, size, {"depth": f"[N, 1, {size[0]}, {size[1]}] m"}, [note])
