"""A detector over whole images: boxes in their own pixels, and the mean average precision of a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dinov3.data.decode import Pixels
from dinov3.detect.answers import answers, said_boxes, scores_of
from dinov3.detect.boxed import BoxedSet
from dinov3.detect.boxes import Boxes
from dinov3.detect.detector import Detector
from dinov3.detect.metric import Found, mean_average_precision
from dinov3.detect.views import Views
from dinov3.finetune.headed import scoring


@dataclass(frozen=True)
class Scorer(scoring.Scorer[Detector, BoxedSet]):
    """COCO's mean average precision."""

    feeding: Views
    least_score: float
    overlap: float

    def found(self, model: Detector, images: BoxedSet, pixels: Pixels, truth: Boxes) -> Found:
        return self.find(model, pixels, truth)

    def shown(self, model: Detector, pixels: Pixels, truth: Boxes) -> tuple[Pixels, Found]:
        """(pixels, true boxes and those said)."""
        return pixels, self.find(model, pixels, truth)

    def summed(self, found: list[Found], images: BoxedSet) -> tuple[dict[str, float | None], dict[str, Any]]:
        """With the mAP of each class."""
        precision = mean_average_precision(found, len(images.classes))
        return precision.scores, {"mAP_of_class": precision.of_class}

    @torch.no_grad()
    def find(self, detector: Detector, pixels: Pixels, truth: Boxes) -> Found:
        """What a detector in eval mode says of ``pixels [H, W, C]``."""
        image, scale = self.feeding.whole(pixels)
        with self.precision.autocast():
            said = detector(image[None].to(self.precision.device))
        seen = (pixels.shape[1] * scale[0], pixels.shape[0] * scale[1])
        limits = {"least_score": self.least_score, "overlap": self.overlap}
        (one,) = answers(scores_of(said), said_boxes(said), seen, **limits)
        corners = one.corners.cpu() / torch.tensor([*scale, *scale])
        return Found(truth, corners.numpy(), one.scores.cpu().numpy(), one.classes.cpu().numpy())
