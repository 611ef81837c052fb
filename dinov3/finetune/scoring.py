"""Logits of a classifier on a labelled set, shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.config.shown import shown
from dinov3.data.bad_samples import BadSample, raise_limit
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.distributed.collectives import gather_objects
from dinov3.distributed.context import rank, world_size
from dinov3.engine.precision import Precision
from dinov3.features.extract import in_threads
from dinov3.finetune.classifier import Classifier, dihedral
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.measures.calibration import softmax
from dinov3.finetune.measures.metrics import Array
from dinov3.finetune.views import Views

Count = Callable[[int], object]


class Scored(NamedTuple):
    """Of the images that could be read, in the order of the set."""

    logits: Array  # [N, classes] float64; with views, logarithms of the mean probability
    labels: Array  # [N] int64
    images: Array  # [N] int64, their indices in the set
    skipped: list[BadSample]
    names: list[str]  # of the images, as text that harms no terminal

    def probabilities(self, temperature: float = 1.0) -> Array:
        """``[N]`` of class 1 when there are two, ``[N, classes]`` otherwise: what ``metrics`` takes."""
        p = softmax(self.logits / temperature)
        return p[:, 1] if p.shape[1] == 2 else p


class Scorer:
    """How images are put through a classifier: views, batch, threads, number format."""

    def __init__(
        self, views: Views, precision: Precision, *, batch: int, threads: int, max_bad_frac: float = 0.01
    ) -> None:
        self.views, self.precision = views.settled(), precision
        self.batch, self.threads, self.max_bad_frac = batch, threads, max_bad_frac

    def score(
        self,
        classifier: Classifier,
        labelled: LabelledSet,
        indices: Sequence[int],
        *,
        tta: bool = False,
        shared: bool = True,
        count: Count = lambda more: None,
    ) -> Scored:
        """Logits of these images. ``tta``: of the mean probability over eight views. ``shared``: every process calls this
        and does its part; all get the whole. Raises TooManyBadSamples."""
        own = list(indices)[rank() :: world_size()] if shared else list(indices)
        mode = classifier.training
        classifier.eval()
        try:
            found = self._score(classifier, labelled, own, tta, count)
        finally:
            classifier.train(mode)
        parts = gather_objects(found) if shared else [found]
        logits, index = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        order = np.argsort(index, kind="stable")
        skipped = sorted((bad for part in parts for bad in part[2]), key=lambda bad: bad.name)
        if len(skipped) > self.max_bad_frac * len(indices):
            raise TooManyBadSamples(
                f"{labelled.text}: {len(skipped)} of {len(indices)} images are unreadable, the first {skipped[0].name}: "
                f"{skipped[0].reason}; {raise_limit(self.max_bad_frac)}"
            )
        index = index[order]
        names = [shown(labelled.source.name(int(i))) for i in index]
        return Scored(logits[order], labelled.labels[index], index, skipped, names)

    @torch.no_grad()
    def _score(
        self, classifier: Classifier, labelled: LabelledSet, own: list[int], tta: bool, count: Count
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], list[BadSample]]:
        logits: list[Tensor] = []
        kept: list[int] = []
        skipped: list[BadSample] = []
        cuts: list[Tensor] = []

        def flush() -> None:
            if cuts:
                logits.append(self._logits(classifier, torch.stack(cuts), tta))
                cuts.clear()

        def cut(index: int) -> Tensor | BadSample:
            try:
                return self.views.cut(labelled.source, index, None)
            except (BadImage, OSError) as error:
                return BadSample(labelled.source.name(index), str(error))

        for index, one in zip(own, in_threads(cut, own, self.threads), strict=True):
            count(1)
            if isinstance(one, BadSample):
                skipped.append(one)
                continue
            kept.append(index)
            cuts.append(one)
            if len(cuts) == self.batch:
                flush()
        flush()
        classes = classifier.head.out_features
        joined = torch.cat(logits).numpy() if logits else np.zeros((0, classes))
        return joined, np.array(kept, dtype=np.int64), skipped

    def _logits(self, classifier: Classifier, cuts: Tensor, tta: bool) -> Tensor:
        images = self.views.finish(cuts.to(self.precision.device), None)
        each = []
        for view in dihedral(images) if tta else [images]:
            with self.precision.autocast():
                each.append(classifier(view).double().cpu())
        if not tta:
            return each[0]
        return torch.stack([one.log_softmax(1) for one in each]).logsumexp(0) - float(np.log(len(each)))
