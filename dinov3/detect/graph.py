"""A detector as an ONNX graph: ``dinov3 finetune export``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dinov3.detect.answers import said_boxes, scores_of
from dinov3.detect.detector_file import load_detector
from dinov3.finetune.headed.graph import Graph, Outputs, headed_graph


class Candidates(Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        said = self.tuned(images)
        return scores_of(said), said_boxes(said)


def graph_of(path: Path) -> Graph:
    """Of the detector at ``path``: every place's answer. Dropping overlaps is left to who runs it: what does that best is
    another thing in every runtime."""
    detector, about = load_detector(path)
    fed = f"images: resized (bicubic) until the longer side is {about.side} px, the rest at the right and below the mean colour, 0"
    note = f"boxes of an IoU above {about.overlap:g} with a better one of their class are to be dropped"
    outputs = {
        "scores": f"[N, P, {len(about.classes)}]: of every place and class",
        "boxes": "[N, P, 4]: left, top, right, bottom px",
    }
    return headed_graph(Candidates, detector, about, (about.side, about.side), outputs, [fed, note])
