"""A detector over whole images: boxes in their own pixels, and the mean average precision of a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import Pixels
from dinov3.detect.answers import answers, said_boxes, scores_of
from dinov3.detect.boxed import BoxedSet
from dinov3.detect.boxes import Boxes
from dinov3.detect.detector import Detector
from dinov3.detect.metric import Found, Precision, mean_average_precision
from dinov3.detect.views import Views
from dinov3.engine.precision import Precision as Format
from dinov3.finetune.headed.over import over


@dataclass
class Scored:
    """Of the images that could be used."""

    precision: Precision
    images: int
    skipped: list[BadSample]


@dataclass(frozen=True)
class Scorer:
    """How images are put through a detector."""

    views: Views
    format: Format
    least_score: float
    overlap: float
    threads: int
    max_bad_frac: float = 0.01

    def score(
        self,
        detector: Detector,
        boxed: BoxedSet,
        indices: Sequence[int],
        *,
        shared: bool = True,
        count: Callable[[int], object] = lambda more: None,
    ) -> Scored:
        """``shared``: every process calls this and does its part; all get the whole. Raises TooManyBadSamples."""
        found, skipped = over(
            detector,
            indices,
            lambda index: boxed.read(index, self.views.channels),
            lambda both: self.find(detector, *both),
            boxed.name,
            shared=shared,
            threads=self.threads,
            most_bad=self.max_bad_frac,
            count=count,
        )
        return Scored(mean_average_precision(found, len(boxed.classes)), len(found), skipped)

    @torch.no_grad()
    def find(self, detector: Detector, pixels: Pixels, truth: Boxes) -> Found:
        """What a detector in eval mode says of ``pixels [H, W, C]``."""
        image, scale = self.views.whole(pixels)
        with self.format.autocast():
            said = detector(image[None].to(self.format.device))
        seen = (pixels.shape[1] * scale[0], pixels.shape[0] * scale[1])
        limits = {"least_score": self.least_score, "overlap": self.overlap}
        (one,) = answers(scores_of(said), said_boxes(said), seen, **limits)
        corners = one.corners.cpu() / torch.tensor([*scale, *scale])
        return Found(truth, corners.numpy(), one.scores.cpu().numpy(), one.classes.cpu().numpy())
