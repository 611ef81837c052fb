"""A depth run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.dense.augment import Augment
from dinov3.dense.depth_losses import WARM_UP_CALLS
from dinov3.dense.feeding import Crops, Feeding, statistics_of
from dinov3.depth.building import build_estimator
from dinov3.depth.config import DepthConfig
from dinov3.depth.estimator import Estimator
from dinov3.depth.estimator_file import About
from dinov3.depth.evaluate import JUDGE
from dinov3.depth.measured import MeasuredSet, open_measured
from dinov3.finetune.headed.building import Built
from dinov3.finetune.headed.job import HeadedJob
from dinov3.finetune.headed.task import Terms
from dinov3.runs.start import Start


class DepthJob(HeadedJob[Estimator, About, MeasuredSet]):
    """What ``dinov3 finetune`` trains with ``task: depth``."""

    cfg: DepthConfig
    product = product_folder = "estimator"
    judge = JUDGE

    @property
    def fits(self) -> Sequence[str]:
        return ("model.head", "model.width", "model.bins")

    def open_sets(self) -> tuple[MeasuredSet, MeasuredSet]:
        return open_measured(self.cfg)

    def built(self, start: Start) -> Built[Estimator, About]:
        return build_estimator(self.cfg, start)

    def terms(self) -> Terms[Estimator]:
        """Of a short run the warm-up of the loss must not be all."""
        warm = min(WARM_UP_CALLS, self.plan().total_steps // 10)
        return lambda estimator, batch, step: estimator.loss(batch.images, batch.truths, warm=step < warm)

    def views(self, preprocess: Mapping[str, Any]) -> Crops:
        cut = self.cfg.augment
        rules = Augment(
            (cut.crop_height, cut.crop_width),
            fill=0,
            short_side=cut.short_side,
            ratio=(cut.scale[0], cut.scale[1]),
            brightness=(cut.brightness[0], cut.brightness[1]),
            rotation=cut.rotation,
        )
        return Crops(Feeding(*statistics_of(preprocess)), rules)

    def about_lines(self) -> tuple[str, str]:
        cfg, (train, validation) = self.cfg, self.data
        crop = f"{cfg.augment.crop_width}x{cfg.augment.crop_height} px"
        return (
            f"{cfg.train.dataset_path}: {len(train):,} images, validation {len(validation):,}",
            f"{cfg.model.head} over {cfg.model.bins} bins on crops of {crop}",
        )
