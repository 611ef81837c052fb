"""The EMA backbone at one step, with what several looks share: features are computed once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.data.bad_samples import raise_limit
from dinov3.data.decode import Reading
from dinov3.data.errors import DataError
from dinov3.data.sources import Source, parse_dataset
from dinov3.data.storage.labels import matched_classes, names_in
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.features.source_images import class_tokens
from dinov3.models.backbone import Backbone
from dinov3.runs.folder import RunFolder
from dinov3.runs.progress import ProgressLine
from dinov3.runs.records import Records

logger = logging.getLogger(__name__)


class LabelledPart(NamedTuple):
    """Images with classes: those that can be read."""

    source: Source
    tokens: Tensor  # [N, D] class tokens
    labels: Tensor  # [N]
    indices: list[int]  # N, in the source


class Scene:
    """What is there to look at after ``step`` steps, on the main process."""

    def __init__(
        self,
        cfg: Config,
        run: RunFolder,
        step: int,
        backbone: Backbone,
        source: Source,
        records: Records,
        progress: ProgressLine,
    ) -> None:
        self.cfg, self.run, self.step = cfg, run, step
        self.backbone, self.source, self.records, self.progress = backbone, source, records, progress

    def extractor(self, size: int | None = None) -> FeatureExtractor:
        """The live backbone as a feature extractor, in fp32: ``size`` px a side (None: as trained), the run's own channel
        statistics."""
        crops, device = self.cfg.crops, next(self.backbone.parameters()).device
        size = size or largest_global_crop(self.cfg)
        preprocess = Preprocess(
            tuple(crops.rgb_mean),
            tuple(crops.rgb_std),
            self.backbone.stride,
            size,
            reading=Reading.from_config(self.cfg),
        )
        return FeatureExtractor(self.backbone, preprocess, device=device, dtype="fp32", batch_size=128)

    @cached_property
    def labelled_parts(self) -> tuple[LabelledPart, LabelledPart]:
        """The training images of ``evaluation.knn`` and its test images, whose classes have the numbers of training's."""
        settings = self.cfg.evaluation.knn
        assert settings.train is not None  # both or none: checked with the config
        assert settings.test is not None
        train, test = self._part(settings.train, settings.max_train), self._part(settings.test, settings.max_test)
        names, known = names_in(test.source), names_in(train.source)
        labels = matched_classes("evaluation.knn.test", test.labels.numpy(), names, known)
        return train, test._replace(labels=torch.from_numpy(labels))

    def _part(self, text: str, limit: int | None) -> LabelledPart:
        source = parse_dataset(text)
        chosen = spread(len(source), limit)
        with self.progress.counting(f"features of step {self.step} for k-NN:", len(chosen)) as count:
            part = LabelledPart(source, *class_tokens(self.extractor(), source, chosen, count))
        bad, most = len(chosen) - len(part.indices), self.cfg.data.max_bad_frac
        if bad > most * len(chosen):
            raise DataError(
                f"evaluation.knn: {text}: {bad} of {len(chosen)} images cannot be read; {raise_limit(most)}"
            )
        if bad:
            logger.warning(
                "evaluation.knn: %s: %d of %d images cannot be read and are left out", text, bad, len(chosen)
            )
        return part

    @property
    def labelled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """CLS tokens ``[N, D]`` and classes ``[N]`` of the training images of ``evaluation.knn``, then of its test images."""
        train, test = self.labelled_parts
        return train.tokens, train.labels, test.tokens, test.labels

    def drawn(self, path: Path) -> None:
        """Tell the sinks of a picture that was written."""
        self.records.picture(path, self.step)


def spread(n: int, wanted: int | None) -> Sequence[int]:
    """At most ``wanted`` indices (None: all), evenly spread over ``range(n)``: sources are often sorted by class."""
    return range(0, n, max(1, -(-n // (wanted or n))))
