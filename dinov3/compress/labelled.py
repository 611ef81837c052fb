"""What compression costs a classifier: a linear layer fitted to the uncompressed features, used on the compressed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Run
from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage
from dinov3.data.sources import Source
from dinov3.eval.knn import knn_accuracy
from dinov3.eval.linear import LinearProbe, fit_linear
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.bootstrap import bootstrap
from dinov3.finetune.metrics import metrics

SHOWN = ("AUROC", "Acc", "BalancedAcc", "Sens95", "NLL", "Brier", "ECE")


@dataclass(frozen=True)
class Pictures:
    """Prepared images of one size and their labels, in memory."""

    images: Tensor  # [N, C, H, W]
    labels: Tensor | None  # [N] int64
    left_out: list[BadSample]  # those that cannot be read

    def batches(self, size: int) -> list[Tensor]:
        return list(self.images.split(size))


def pictures(source: Source, preprocess: Preprocess, count: int, option: str, *, labelled: bool) -> Pictures:
    """At most ``count`` images of ``source``, evenly spread over it; those that cannot be read are left out.

    CompressError when none is left, when sizes differ, for channels the backbone does not take, or for a missing label.
    """
    step = max(len(source) / count, 1.0)
    chosen = [int(i * step) for i in range(min(count, len(source)))]
    images: list[Tensor] = []
    labels: list[int] = []
    bad: list[BadSample] = []
    for index in chosen:
        try:
            pixels = read_image(source, index, preprocess.reading)
        except BadImage as error:
            bad.append(BadSample(source.name(index), str(error)))
            continue
        try:
            image = preprocess(pixels)
        except ValueError as error:  # channels the backbone does not take
            raise CompressError(f"{option}: {source.name(index)}: {error}") from error
        label = source.label(index) if labelled else 0
        if label is None:
            raise CompressError(f"{option}: {source.name(index)} has no label")
        images.append(image)
        labels.append(label)
    if not images:
        reason = f"; the first, {bad[0].name}: {bad[0].reason}" if bad else ""
        raise CompressError(f"{option}: no image could be read{reason}")
    if len({image.shape for image in images}) > 1:
        raise CompressError(f"{option}: images of several sizes: give --size a number of px")
    return Pictures(torch.stack(images), torch.tensor(labels) if labelled else None, bad)


class Probe:
    """A linear classifier on class tokens, fitted once on the uncompressed model."""

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

    def scores(self, run: Run) -> dict[str, Any]:
        """Metrics on the test images of the layer as it is, with 95 % intervals, and k-NN, whose gallery is made anew."""
        assert self.train.labels is not None
        assert self.test.labels is not None
        tokens = self._class_tokens(run, self.test)
        p = self.layer(tokens).softmax(1).double().numpy()
        p = p / p.sum(1, keepdims=True)
        p = p[:, 1] if self.classes == 2 else p
        y = self.test.labels.numpy()
        found, intervals = metrics(p, y), bootstrap(p, y, resamples=200)
        rows = {
            name: {"value": found[name], "low": intervals[name].low, "high": intervals[name].high} for name in SHOWN
        }
        gallery = self._class_tokens(run, self.train)
        return {**rows, "knn": {"value": knn_accuracy(gallery, self.train.labels, tokens, self.test.labels)}}

    @torch.no_grad()
    def _class_tokens(self, run: Run, of: Pictures) -> Tensor:
        return torch.cat([run(batch)[:, 0] for batch in of.batches(self.batch)])
