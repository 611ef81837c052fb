"""A depth run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dinov3.dense.augment import Augment
from dinov3.depth.building import build_estimator
from dinov3.depth.concluding import conclude, read_results, sentence_of
from dinov3.depth.config import DepthConfig
from dinov3.depth.estimator import Estimator
from dinov3.depth.estimator_file import write_estimator
from dinov3.depth.measured import MeasuredSet, open_measured
from dinov3.depth.scoring import SELECT, Scorer
from dinov3.depth.stream import DepthBatch, DepthStream
from dinov3.depth.task import DepthTask
from dinov3.engine.precision import resolve
from dinov3.engine.task import Counters
from dinov3.finetune.headed.job import Count, HeadedJob
from dinov3.finetune.headed.selected import Scores
from dinov3.finetune.results import RESULTS
from dinov3.runs.start import Start


class DepthJob(HeadedJob[DepthBatch, MeasuredSet]):
    """What ``dinov3 finetune`` trains with ``task: depth``."""

    cfg: DepthConfig
    product = "estimator"
    selects = SELECT

    @property
    def fits(self) -> Sequence[str]:
        return ("model.head", "model.width", "model.bins")

    def open_sets(self) -> tuple[MeasuredSet, MeasuredSet]:
        return open_measured(self.cfg)

    def build(self, start: Start, device: torch.device) -> tuple[DepthTask, list[str]]:
        precision = resolve(self.cfg.compute_precision.param_dtype, device)
        built = build_estimator(self.cfg, start)

        def writes(estimator: Estimator, step: int) -> Callable[[Path], None]:
            about = built.about(step)
            return lambda folder: write_estimator(folder, estimator, about, built.facts)

        self._feeding = built.feeding
        steps = self.plan().total_steps
        return DepthTask(built.estimator, self.cfg, precision, built.pretrained, writes, steps), built.lines

    def stream(self, task: DepthTask, counters: Counters) -> DepthStream:
        cut = self.cfg.augment
        rules = Augment(
            (cut.crop_height, cut.crop_width),
            fill=0,
            short_side=cut.short_side,
            ratio=(cut.scale[0], cut.scale[1]),
            brightness=(cut.brightness[0], cut.brightness[1]),
            rotation=cut.rotation,
        )
        places = self.places(counters.samples)
        return DepthStream(self.data[0], rules, self._feeding, places, task.device, **self.feeding())

    def scorer(self, task: DepthTask) -> Scorer:
        judged, bad = self.cfg.evaluation, self.cfg.data.max_bad_frac
        return Scorer(self._feeding, task.precision, judged.flip, judged.eigen, max(1, self.threads), bad)

    def scores(self, task: DepthTask, indices: Sequence[int], count: Count) -> tuple[Scores, int]:
        scored = self.scorer(task).score(task.tuned, self.data[1], indices, count=count)
        return scored.scores, scored.images

    def conclude(self, task: DepthTask, step: int) -> None:
        conclude(self, task, step)

    def sentence(self) -> str:
        return sentence_of(read_results(self.run.path / RESULTS))

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        crop = f"{cfg.augment.crop_width}x{cfg.augment.crop_height} px"
        return (
            f"{cfg.train.dataset_path}: {len(train):,} images, validation {len(validation):,}",
            f"{cfg.model.head} over {cfg.model.bins} bins on crops of {crop}",
        )
