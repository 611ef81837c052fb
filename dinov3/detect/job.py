"""A detection run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.dense.feeding import statistics_of
from dinov3.detect.boxed import BoxedSet, open_boxed
from dinov3.detect.building import build_detector
from dinov3.detect.config import DetectConfig
from dinov3.detect.detector import Detector
from dinov3.detect.detector_file import About
from dinov3.detect.evaluate import JUDGE
from dinov3.detect.views import Views
from dinov3.finetune.headed.building import Built
from dinov3.finetune.headed.job import HeadedJob
from dinov3.finetune.headed.task import Terms
from dinov3.runs.start import Start


class DetectJob(HeadedJob[Detector, About, BoxedSet]):
    """What ``dinov3 finetune`` trains with ``task: detect``."""

    cfg: DetectConfig
    product = product_folder = "detector"
    judge = JUDGE

    @property
    def fits(self) -> Sequence[str]:
        return ("model.upscale", "model.levels", "model.width", "model.depth")

    def open_sets(self) -> tuple[BoxedSet, BoxedSet]:
        return open_boxed(self.cfg)

    def built(self, start: Start) -> Built[Detector, About]:
        return build_detector(self.cfg, start, self.data[0].classes)

    def terms(self) -> Terms[Detector]:
        return lambda detector, batch, step: detector.loss(batch.images, batch.truths)

    def views(self, preprocess: Mapping[str, Any]) -> Views:
        low, high = self.cfg.augment.scale
        return Views(*statistics_of(preprocess), self.cfg.augment.side, (low, high))

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        data = f"{cfg.train.dataset_path}: {len(train):,} images, {len(train.classes)} classes of boxes"
        pyramid = f"{cfg.model.levels} levels of {cfg.model.width} channels on views of {cfg.augment.side} px"
        return f"{data}, validation {len(validation):,}", pyramid
