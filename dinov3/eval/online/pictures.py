"""Patch features of a few training images as colours, and the curves of the metrics: pictures in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.engine.look import Look, is_multiple
from dinov3.eval.online.scene import Scene, spread
from dinov3.features.source_images import SourceImages
from dinov3.pictures.pca import pca_sheet
from dinov3.runs.folder import RunFolder
from dinov3.system.files import replacing
from dinov3.system.rows import read_rows

N_PICTURES = 6


class Picture(Look[Scene]):
    """``pictures/pca-STEP.png`` now and then, ``pca.png`` at the end: always the same images."""

    name = "pca"
    in_rows = False

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.wanted = cfg.evaluation.pictures and cfg.student.in_chans == 3
        self.period = cfg.evaluation.pictures_period

    def due(self, step: int, *, ends: bool) -> bool:
        return self.wanted and is_multiple(step, self.period)

    def measure(self, scene: Scene) -> dict[str, Any]:
        self._draw(scene, scene.run.pictures / f"pca-{scene.step:08d}.png")
        return {}

    def finish(self, scene: Scene) -> None:
        if self.wanted:
            self._draw(scene, scene.run.pca)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        return older(run.pca, saved_ns) if self.wanted else []

    def _draw(self, scene: Scene, path: Path) -> None:
        cfg, source = self.cfg, scene.source
        # twice the training size: a finer grid of patches to look at, and RoPE has no table to interpolate
        look_at = scene.extractor(2 * largest_global_crop(cfg))
        chosen = list(spread(len(source), N_PICTURES))[:N_PICTURES]
        images = torch.stack(list(SourceImages(look_at, source, chosen))).to(look_at.device)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as fresh:
            pca_sheet(scene.backbone, images, cfg.crops.rgb_mean, cfg.crops.rgb_std, fresh, scene.step)
        scene.drawn(path)


class Curves(Look[Scene]):
    """``curves.png`` at the end."""

    name = "curves"
    in_rows = False

    def __init__(self, cfg: Config) -> None:
        self.wanted = cfg.evaluation.pictures

    def due(self, step: int, *, ends: bool) -> bool:
        return False

    def finish(self, scene: Scene) -> None:
        run = scene.run
        if self.wanted and has_rows(run):
            # Here: it imports matplotlib, a second's work that a run without pictures need not wait for.
            from dinov3.pictures.curves import curves

            with replacing(run.curves) as fresh:
                curves(read_rows(run.metrics), fresh, read_rows(run.evaluation))
            scene.drawn(run.curves)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        return older(run.curves, saved_ns) if self.wanted and has_rows(run) else []


def has_rows(run: RunFolder) -> bool:
    """Whether anything was logged."""
    return run.metrics.exists() and run.metrics.stat().st_size > 0


def older(path: Path, saved_ns: int) -> list[str]:
    """The name of a file that is not there, or was written before ``saved_ns``."""
    return [] if path.exists() and path.stat().st_mtime_ns >= saved_ns else [path.name]
