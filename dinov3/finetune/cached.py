"""Features of a frozen backbone, computed once: what a head alone trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from dinov3.config.shown import shown
from dinov3.data.bad_samples import BadSample
from dinov3.engine.precision import Precision
from dinov3.features.cache import FeatureKind, cached_features
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.features.tokens import Pool
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.config import ClassifyConfig
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.scoring import Scored
from dinov3.finetune.views import Views
from dinov3.system.cores import usable_workers


@dataclass
class CachedSet:
    """Of the images that could be read."""

    labelled: LabelledSet
    features: Tensor  # [N, D] float32, on the device
    labels: Tensor  # [N] int64, on the device
    index: list[int]  # [N] in the set
    skipped: list[BadSample]

    @classmethod
    def of(
        cls,
        labelled: LabelledSet,
        classifier: Classifier,
        views: Views,
        precision: Precision,
        folder: Path,
        cfg: ClassifyConfig,
    ) -> Self:
        """Computed when they are not in ``folder``; every process must call it."""
        preprocess = Preprocess(views.mean, views.std, classifier.backbone.stride, views.size, reading=views.reading)
        extractor = FeatureExtractor(
            classifier.backbone,
            preprocess,
            device=precision.device,
            dtype=precision.name,
            batch_size=cfg.evaluation.batch_size,
            threads=max(1, usable_workers(cfg.train.num_workers)),
        )
        pool: Pool = cfg.model.pool
        found = cached_features(
            extractor, labelled.source, folder, FeatureKind(pool=pool), max_bad_frac=cfg.data.max_bad_frac
        )
        features, _ = found.pooled()
        index = torch.cat([shard["index"] for shard in found.shards() if len(shard["index"])]).tolist()
        labels = torch.from_numpy(labelled.labels[index])
        skipped = [BadSample(**row) for row in found.manifest["skipped"]]
        return cls(labelled, features.to(precision.device), labels.to(precision.device), index, skipped)

    def name_of(self, row: int) -> str:
        return self.labelled.source.name(self.index[row])

    @torch.no_grad()
    def scored(self, classifier: Classifier) -> Scored:
        """Logits of the whole set, in the number format of the head."""
        logits = classifier.head(self.features).double().cpu().numpy()
        names = [shown(self.name_of(row)) for row in range(len(self.index))]
        return Scored(logits, self.labels.cpu().numpy(), np.array(self.index, dtype=np.int64), self.skipped, names)
