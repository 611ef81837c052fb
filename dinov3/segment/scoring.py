"""A segmenter over whole images in windows: mean IoU of a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.errors import DataError
from dinov3.dense.feeding import Feeding
from dinov3.dense.segmentation import LABELLED, areas, class_scores, summary
from dinov3.dense.windows import resized, slide
from dinov3.finetune.headed import scoring
from dinov3.finetune.results import finite
from dinov3.segment.masked import MaskedSet
from dinov3.segment.segmenter import Segmenter


@dataclass(frozen=True)
class Scorer(scoring.Scorer[Segmenter, MaskedSet]):
    """Means over classes, and the accuracy of all pixels."""

    feeding: Feeding
    crop: int
    stride: int

    def found(self, model: Segmenter, images: MaskedSet, pixels: Pixels, truth: NDArray[np.int32]) -> Tensor:
        """Areas ``[4, classes]`` int64 of one image, as in ``dinov3.dense.segmentation``."""
        return areas(self.predict(model, pixels), torch.from_numpy(truth), images.classes, images.meaning.ignore)

    def shown(self, model: Segmenter, pixels: Pixels, truth: NDArray[np.int32]) -> tuple[Pixels, Tensor, Tensor]:
        """(pixels, truth, prediction)."""
        return pixels, torch.from_numpy(truth), self.predict(model, pixels)

    def summed(self, found: list[Tensor], images: MaskedSet) -> tuple[dict[str, float | None], dict[str, Any]]:
        """With the IoU of each class; None for one that neither occurs nor is said."""
        total = torch.stack(found).sum(0)
        if not total[LABELLED].any():
            raise DataError("no validation mask has a pixel with a label: there is nothing to score or to select by")
        of_class = [finite(float(value)) for value in class_scores(total)["iou"]]
        return {name: finite(value) for name, value in summary(total).items()}, {"iou_of_class": of_class}

    @torch.no_grad()
    def predict(self, segmenter: Segmenter, pixels: Pixels) -> Tensor:
        """Class numbers ``[H, W]`` of pixels ``[H, W, C]`` by a segmenter in eval mode, on the CPU."""
        image = self.feeding.whole(pixels)[None].to(self.precision.device)
        with self.precision.autocast():
            scores, _ = slide(segmenter, image, (self.crop, self.crop), (self.stride, self.stride))
        return resized(scores.float(), (pixels.shape[0], pixels.shape[1]))[0].argmax(0).cpu()
