"""What has become of the features training began with, and when that is reason to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.errors import DataError
from dinov3.data.sources import open_dataset
from dinov3.engine.look import Look, Row
from dinov3.eval.drift import drift
from dinov3.eval.online.scene import Scene
from dinov3.features.extract import FeatureExtractor
from dinov3.features.source_images import SourceImages
from dinov3.runs.folder import DRIFT_START
from dinov3.runs.progress import ProgressLine
from dinov3.system.files import write_whole

PATCHES = 16  # of an image, evenly spread: neighbours say the same


class Drift(Look[Scene]):
    name = "drift"

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.period = cfg, cfg.evaluation.drift.period

    def due(self, step: int, *, ends: bool) -> bool:
        return self.cfg.evaluation.drift.enabled and super().due(step, ends=ends)

    def measure(self, scene: Scene) -> dict[str, Any]:
        """Drift since step 0, whose features are kept in the run folder; DataError when they are not there any more."""
        now, path = fixed_tokens(scene.extractor(), self.cfg, scene.progress), scene.run.path / DRIFT_START
        if scene.step == 0:
            write_whole(path, save(now))
        elif not path.exists():
            raise DataError(
                f"{path}: the features of step 0 are gone: set evaluation.drift.enabled=false to go on without"
            )
        try:
            start = load(path.read_bytes())
        except SafetensorError as error:
            raise DataError(
                f"{path}: damaged ({error}): set evaluation.drift.enabled=false to go on without"
            ) from error
        if now.keys() != start.keys() or any(start[kind].shape != tokens.shape for kind, tokens in now.items()):
            raise DataError(f"{path}: is of other images: put evaluation.drift.images and .dataset back")
        return dict(drift(now, start))

    def stop(self, rows: Sequence[Row]) -> str | None:
        lowest, cosine = self.cfg.evaluation.drift.stop_below, rows[-1].get("drift_cls_cosine")
        if lowest is None or cosine is None or cosine >= lowest:
            return None
        return (
            f"the CLS tokens have a mean cosine of {cosine:.3f} with those at the start, "
            f"below evaluation.drift.stop_below {lowest:g}"
        )


def fixed_tokens(extractor: FeatureExtractor, cfg: Config, progress: ProgressLine) -> dict[str, Tensor]:
    """``cls [N, D]`` and ``patch [N*PATCHES, D]`` of the fixed images."""
    settings = cfg.evaluation.drift
    source = open_dataset(settings.dataset or cfg.train.dataset_path)
    chosen = torch.linspace(0, len(source) - 1, min(settings.images, len(source))).long().unique().tolist()
    with progress.counting("features of the fixed images for drift:", len(chosen)) as count:
        images = SourceImages(extractor, source, chosen, count)
        tokens = [layers[0] for layers in extractor.stream_prepared(images)]
    if len(tokens) < 2:
        raise DataError(f"evaluation.drift.dataset {settings.dataset}: fewer than 2 images to measure drift on")
    places = torch.linspace(0, tokens[0].patches.shape[1] - 1, PATCHES).long().unique()
    return {
        "cls": torch.cat([t.cls for t in tokens]),
        "patch": torch.cat([t.patches[:, places].flatten(0, 1) for t in tokens]),
    }
