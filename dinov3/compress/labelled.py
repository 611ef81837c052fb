"""What compression costs a classifier: the head it has, or a linear layer fitted to the uncompressed features, on the
features of the compressed copy."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Run
from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage
from dinov3.data.sources import Source
from dinov3.data.storage.labels import every_label, matched_classes
from dinov3.eval.knn import knn_accuracy
from dinov3.eval.linear import LinearProbe, fit_linear
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.measures.bootstrap import bootstrap
from dinov3.finetune.measures.calibration import softmax
from dinov3.finetune.measures.metrics import Array, metrics
from dinov3.finetune.views import Views

Rows = dict[str, dict[str, float]]  # by metric: value, and where there is an interval low and high
SHOWN = ("AUROC", "Acc", "BalancedAcc", "Sens95", "NLL", "Brier", "ECE")


@dataclass(frozen=True)
class Pictures:
    """Prepared images of one size and their labels, in memory."""

    images: Tensor  # [N, C, H, W]
    labels: Tensor | None  # [N] int64
    left_out: list[BadSample]  # those that cannot be read

    def batches(self, size: int) -> list[Tensor]:
        """At most ``size`` images each, about equally many: one image alone has no spread, which methods divide by."""
        return list(self.images.tensor_split(-(-len(self.images) // size)))


class Judge(Protocol):
    """Scores a backbone; called with the whole one first."""

    name: str  # what is scored, for tables and pictures

    def scores(self, run: Run) -> Rows: ...


def pictures(source: Source, preprocess: Preprocess, count: int, option: str, *, labelled: bool) -> Pictures:
    """At most ``count`` images of ``source``, evenly spread over it; those that cannot be read are left out.

    CompressError when none is left, when sizes differ, or for channels the backbone does not take; DataError for a missing label.
    """
    chosen = spread(len(source), count)
    found = (
        every_label(source, option, "it needs class subfolders or labels", chosen) if labelled else [0] * len(chosen)
    )
    images: list[Tensor] = []
    labels: list[int] = []
    bad: list[BadSample] = []
    for index, label in zip(chosen, found, strict=True):
        try:
            pixels = read_image(source, index, preprocess.reading)
        except BadImage as error:
            bad.append(BadSample(source.name(index), str(error)))
            continue
        try:
            image = preprocess(pixels)
        except ValueError as error:  # channels the backbone does not take
            raise CompressError(f"{option}: {source.name(index)}: {error}") from error
        images.append(image)
        labels.append(label)
    if not images:
        reason = f"; the first, {bad[0].name}: {bad[0].reason}" if bad else ""
        raise CompressError(f"{option}: no image could be read{reason}")
    if len({image.shape for image in images}) > 1:
        raise CompressError(f"{option}: images of several sizes: give --size a number of px")
    return Pictures(torch.stack(images), torch.tensor(labels) if labelled else None, bad)


def with_numbers_of(test: Pictures, names: list[str] | None, known: list[str] | None) -> Pictures:
    """``--test`` with the numbers that the classes ``known`` of ``--train`` have. DataError for a class that is not there."""
    assert test.labels is not None
    labels = matched_classes("--test", test.labels.numpy(), names, known)
    return Pictures(test.images, torch.from_numpy(labels), test.left_out)


def spread(of: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``of``, rising, evenly spread."""
    step = max(of / count, 1.0)
    return [int(i * step) for i in range(min(count, of))]


class Probe:
    """A linear classifier on class tokens, fitted once on the uncompressed model."""

    name = "a linear layer"

    def __init__(self, whole: Run, train: Pictures, test: Pictures, *, batch: int, seed: int = 0) -> None:
        assert train.labels is not None
        assert test.labels is not None
        self.classes = int(max(train.labels.max(), test.labels.max())) + 1
        if len(train.labels.unique()) < 2:
            raise CompressError("--train: all images are of one class, there is nothing to tell apart")
        self.train, self.test, self.batch = train, test, batch
        features = self._class_tokens(whole, train)
        try:
            self.layer: LinearProbe = fit_linear(features, train.labels, n_classes=self.classes, seed=seed)
        except ValueError as error:  # too few images
            raise CompressError(f"--train: {error}") from error

    def scores(self, run: Run) -> Rows:
        """Metrics on the test images of the layer as it is, with 95 % intervals, and k-NN, whose gallery is made anew."""
        assert self.train.labels is not None
        assert self.test.labels is not None
        tokens = self._class_tokens(run, self.test)
        rows = _rows(self.layer(tokens), self.test.labels.numpy())
        gallery = self._class_tokens(run, self.train)
        return {**rows, "knn": {"value": knn_accuracy(gallery, self.train.labels, tokens, self.test.labels)}}

    @torch.no_grad()
    def _class_tokens(self, run: Run, of: Pictures) -> Tensor:
        return torch.cat([run(batch)[:, 0] for batch in of.batches(self.batch)])


class OwnHead:
    """A finished classifier's head on its own inputs: one view an image, as ``dinov3 finetune evaluate`` has it.

    At most ``count`` images of ``labelled``, evenly spread; those that cannot be read are in ``left_out``. CompressError when
    none is left.
    """

    name = "the classifier's own head"

    def __init__(self, classifier: Classifier, views: Views, labelled: LabelledSet, count: int, *, batch: int) -> None:
        self.classifier, self.views, self.batch = classifier, views.settled(), batch
        bad: list[BadSample] = []
        cuts: list[Tensor] = []
        labels: list[int] = []
        for index in spread(len(labelled), count):
            try:
                cuts.append(self.views.cut(labelled.source, index, None))
            except BadImage as error:
                bad.append(BadSample(labelled.source.name(index), str(error)))
                continue
            labels.append(int(labelled.labels[index]))
        if not cuts:
            raise CompressError(f"--test: no image could be read; the first, {bad[0].name}: {bad[0].reason}")
        self.cuts, self.labels, self.left_out = torch.stack(cuts), np.array(labels), bad

    def pictures(self, count: int) -> Pictures:
        """The first ``count`` images as the backbone sees them; with all that cannot be read."""
        return Pictures(self.views.finish(self.cuts[:count], None), None, self.left_out)

    @torch.no_grad()
    def scores(self, run: Run) -> Rows:
        """Metrics with 95 % intervals of the head on the tokens that ``run`` gives."""
        first = 1 + self.classifier.backbone.n_storage_tokens
        logits = []
        for cuts in self.cuts.split(self.batch):
            tokens = run(self.views.finish(cuts, None))
            logits.append(self.classifier.head(self.classifier.pooled(tokens[:, 0], tokens[:, first:])))
        return _rows(torch.cat(logits), self.labels)


def _rows(logits: Tensor, y: Array) -> Rows:
    p = softmax(logits.double().numpy())
    p = p[:, 1] if p.shape[1] == 2 else p
    found, intervals = metrics(p, y), bootstrap(p, y, resamples=200)
    defined = [name for name in SHOWN if isfinite(found[name])]  # AUROC is not when only one class occurs
    return {name: {"value": found[name], "low": intervals[name].low, "high": intervals[name].high} for name in defined}
