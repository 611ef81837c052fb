"""An estimator over whole images: the scores of a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.depth_metrics import evaluate_depth, table_of
from dinov3.dense.feeding import Feeding
from dinov3.dense.windows import resized
from dinov3.depth.estimator import Estimator
from dinov3.depth.measured import MeasuredSet
from dinov3.finetune.headed import scoring
from dinov3.finetune.results import finite


@dataclass(frozen=True)
class Scorer(scoring.Scorer[Estimator, MeasuredSet]):
    """Means over images that have a pixel that counts."""

    feeding: Feeding
    flip: bool
    eigen: bool

    def found(self, model: Estimator, images: MeasuredSet, pixels: Pixels, truth: NDArray[np.float32]) -> Tensor:
        """The scores of one image."""
        prediction = self.predict(model, pixels)
        return evaluate_depth(prediction, torch.from_numpy(truth), low=images.low, high=images.high, eigen=self.eigen)[
            0
        ]

    def shown(self, model: Estimator, pixels: Pixels, truth: NDArray[np.float32]) -> tuple[Pixels, Tensor, Tensor]:
        """(pixels, truth, prediction)."""
        return pixels, torch.from_numpy(truth), self.predict(model, pixels)

    def summed(self, found: list[Tensor], images: MeasuredSet) -> tuple[dict[str, float | None], dict[str, Any]]:
        return {name: finite(value) for name, value in table_of(found).items()}, {}

    @torch.no_grad()
    def predict(self, estimator: Estimator, pixels: Pixels) -> Tensor:
        """Depth ``[H, W]`` m of pixels ``[H, W, C]`` by an estimator in eval mode, on the CPU."""
        image = self.feeding.whole(pixels)[None].to(self.precision.device)
        with self.precision.autocast():
            each = [estimator(image)]
            if self.flip:
                each.append(estimator(image.flip(-1)).flip(-1))
        depth = torch.stack(each).float().mean(0)
        return resized(depth, (pixels.shape[0], pixels.shape[1]))[0, 0].cpu()
