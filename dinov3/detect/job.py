"""A detection run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dinov3.detect.boxed import BoxedSet, open_boxed
from dinov3.detect.building import build_detector
from dinov3.detect.concluding import conclude, read_results, sentence_of
from dinov3.detect.config import DetectConfig
from dinov3.detect.detector import Detector
from dinov3.detect.detector_file import write_detector
from dinov3.detect.metric import SELECT
from dinov3.detect.scoring import Scorer
from dinov3.detect.stream import BoxStream, DetectBatch
from dinov3.detect.task import DetectTask
from dinov3.engine.precision import resolve
from dinov3.engine.task import Counters
from dinov3.finetune.headed.job import Count, HeadedJob
from dinov3.finetune.headed.selected import Scores
from dinov3.finetune.results import RESULTS
from dinov3.runs.start import Start


class DetectJob(HeadedJob[DetectBatch, BoxedSet]):
    """What ``dinov3 finetune`` trains with ``task: detect``."""

    cfg: DetectConfig
    product = "detector"
    selects = SELECT

    @property
    def fits(self) -> Sequence[str]:
        return ("model.upscale", "model.levels", "model.width", "model.depth")

    def open_sets(self) -> tuple[BoxedSet, BoxedSet]:
        return open_boxed(self.cfg)

    def build(self, start: Start, device: torch.device) -> tuple[DetectTask, list[str]]:
        precision = resolve(self.cfg.compute_precision.param_dtype, device)
        built = build_detector(self.cfg, start, self.data[0].classes)

        def writes(detector: Detector, step: int) -> Callable[[Path], None]:
            about = built.about(step)
            return lambda folder: write_detector(folder, detector, about, built.facts)

        self._views = built.views
        return DetectTask(built.detector, self.cfg, precision, built.pretrained, writes), built.lines

    def stream(self, task: DetectTask, counters: Counters) -> BoxStream:
        places = self.places(counters.samples)
        return BoxStream(self.data[0], self._views, places, task.device, **self.feeding())

    def scorer(self, task: DetectTask) -> Scorer:
        said, bad = self.cfg.evaluation, self.cfg.data.max_bad_frac
        return Scorer(self._views, task.precision, said.least_score, said.overlap, max(1, self.threads), bad)

    def scores(self, task: DetectTask, indices: Sequence[int], count: Count) -> tuple[Scores, int]:
        scored = self.scorer(task).score(task.tuned, self.data[1], indices, count=count)
        return scored.precision.scores, scored.images

    def conclude(self, task: DetectTask, step: int) -> None:
        conclude(self, task, step)

    def sentence(self) -> str:
        return sentence_of(read_results(self.run.path / RESULTS))

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        data = f"{cfg.train.dataset_path}: {len(train):,} images, {len(train.classes)} classes of boxes"
        pyramid = f"{cfg.model.levels} levels of {cfg.model.width} channels on views of {cfg.augment.side} px"
        return f"{data}, validation {len(validation):,}", pyramid
