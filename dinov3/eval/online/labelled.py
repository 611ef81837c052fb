"""Looks that need labelled images: on when ``evaluation.knn`` names some."""

from __future__ import annotations

from dinov3.config.schema import Config
from dinov3.engine.look import Look
from dinov3.eval.online.scene import Scene


class LabelledLook(Look[Scene]):
    """Due when k-NN is."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.period = cfg, cfg.evaluation.knn.period

    def due(self, step: int, *, ends: bool) -> bool:
        return self.cfg.evaluation.knn.train is not None and super().due(step, ends=ends)
