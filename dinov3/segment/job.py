"""A segmentation run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.dense.augment import Augment
from dinov3.dense.feeding import Crops, Feeding, statistics_of
from dinov3.finetune.headed.building import Built
from dinov3.finetune.headed.job import HeadedJob
from dinov3.finetune.headed.task import Terms
from dinov3.runs.start import Start
from dinov3.segment.building import build_segmenter
from dinov3.segment.config import SegmentConfig
from dinov3.segment.evaluate import JUDGE
from dinov3.segment.masked import MaskedSet, open_masked
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.segmenter_file import About


class SegmentJob(HeadedJob[Segmenter, About, MaskedSet]):
    """What ``dinov3 finetune`` trains with ``task: segment``."""

    cfg: SegmentConfig
    product = product_folder = "segmenter"
    judge = JUDGE

    @property
    def fits(self) -> Sequence[str]:
        keys = ("model.head", "model.queries", "model.query_blocks", "model.width", "train.classes")
        # blocks of the mask transformer are the backbone's or its own
        return (*keys, "model.frozen") if self.cfg.model.head == "mask_transformer" else keys

    def open_sets(self) -> tuple[MaskedSet, MaskedSet]:
        return open_masked(self.cfg)

    def built(self, start: Start) -> Built[Segmenter, About]:
        return build_segmenter(self.cfg, start, self.data[0].classes)

    def terms(self) -> Terms[Segmenter]:
        ignore = self.cfg.train.ignore
        return lambda segmenter, batch, step: segmenter.loss(batch.images, batch.truths, ignore)

    def views(self, preprocess: Mapping[str, Any]) -> Crops:
        crop, scale = self.cfg.augment.crop, self.cfg.augment.scale
        rules = Augment((crop, crop), self.cfg.train.ignore, self.cfg.augment.short_side, (scale[0], scale[1]))
        return Crops(Feeding(*statistics_of(preprocess)), rules)

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        data = f"{cfg.train.dataset_path}: {len(train):,} images of {train.classes} classes"
        return (
            f"{data}, validation {len(validation):,}",
            f"{cfg.model.head} on crops of {cfg.augment.crop} px",
        )
