"""Two figures of the labelled images' CLS tokens that need no labels: their effective rank, and how far they point apart."""

from __future__ import annotations

from typing import Any

from dinov3.eval.online.labelled import LabelledLook
from dinov3.eval.online.scene import Scene
from dinov3.losses.diagnostics import feature_spread, rankme


class Rank(LabelledLook):
    name = "rank"

    def measure(self, scene: Scene) -> dict[str, Any]:
        tokens = scene.labelled[0]
        return {"rankme": float(rankme(tokens)), "cls_spread": float(feature_spread(tokens))}
