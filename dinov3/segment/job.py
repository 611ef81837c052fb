"""A segmentation run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dinov3.dense.augment import Augment
from dinov3.engine.precision import resolve
from dinov3.engine.task import Counters
from dinov3.finetune.headed.job import Count, HeadedJob
from dinov3.finetune.headed.selected import Scores
from dinov3.finetune.results import RESULTS
from dinov3.runs.start import Start
from dinov3.segment.building import build_segmenter
from dinov3.segment.concluding import conclude, read_results, sentence_of
from dinov3.segment.config import SegmentConfig, stride_of
from dinov3.segment.masked import MaskedSet, open_masked
from dinov3.segment.scoring import Scorer
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.segmenter_file import write_segmenter
from dinov3.segment.stream import CropStream, SegmentBatch
from dinov3.segment.task import SegmentTask
from dinov3.segment.validation import SELECT, scores_of


class SegmentJob(HeadedJob[SegmentBatch, MaskedSet]):
    """What ``dinov3 finetune`` trains with ``task: segment``."""

    cfg: SegmentConfig
    product = "segmenter"
    selects = SELECT

    @property
    def fits(self) -> Sequence[str]:
        keys = ("model.head", "model.queries", "model.query_blocks", "model.width", "train.classes")
        # blocks of the mask transformer are the backbone's or its own
        return (*keys, "model.frozen") if self.cfg.model.head == "mask_transformer" else keys

    def open_sets(self) -> tuple[MaskedSet, MaskedSet]:
        return open_masked(self.cfg)

    def build(self, start: Start, device: torch.device) -> tuple[SegmentTask, list[str]]:
        precision = resolve(self.cfg.compute_precision.param_dtype, device)
        built = build_segmenter(self.cfg, start, self.data[0].classes)

        def writes(segmenter: Segmenter, step: int) -> Callable[[Path], None]:
            about = built.about(step)
            return lambda folder: write_segmenter(folder, segmenter, about, built.facts)

        self._feeding = built.feeding
        return SegmentTask(built.segmenter, self.cfg, precision, built.pretrained, writes), built.lines

    def stream(self, task: SegmentTask, counters: Counters) -> CropStream:
        cfg = self.cfg
        crop, scale = cfg.augment.crop, cfg.augment.scale
        rules = Augment((crop, crop), cfg.train.ignore, cfg.augment.short_side, (scale[0], scale[1]))
        places = self.places(counters.samples)
        return CropStream(self.data[0], rules, self._feeding, places, task.device, **self.feeding())

    def scorer(self, task: SegmentTask) -> Scorer:
        crop, stride = self.cfg.augment.crop, stride_of(self.cfg)
        threads = max(1, self.threads)
        return Scorer(self._feeding, task.precision, crop, stride, threads, self.cfg.data.max_bad_frac)

    def scores(self, task: SegmentTask, indices: Sequence[int], count: Count) -> tuple[Scores, int]:
        scored = self.scorer(task).score(task.segmenter, self.data[1], indices, count=count)
        return scores_of(scored), scored.images

    def conclude(self, task: SegmentTask, step: int) -> None:
        conclude(self, task, step)

    def sentence(self) -> str:
        return sentence_of(read_results(self.run.path / RESULTS))

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        data = f"{cfg.train.dataset_path}: {len(train):,} images of {train.classes} classes"
        return (
            f"{data}, validation {len(validation):,}",
            f"{cfg.model.head} on crops of {cfg.augment.crop} px",
        )
