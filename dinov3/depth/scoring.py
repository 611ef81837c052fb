"""An estimator over whole images: the scores of a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import Pixels
from dinov3.dense.depth_metrics import evaluate_depth, table_of
from dinov3.dense.windows import resized
from dinov3.depth.estimator import Estimator
from dinov3.depth.measured import MeasuredSet
from dinov3.depth.stream import Feeding
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.over import over
from dinov3.finetune.results import finite

SELECT = "rmse"


@dataclass
class Scored:
    """Of the images that could be used."""

    scores: dict[str, float | None]  # means over images that have a pixel that counts
    images: int
    skipped: list[BadSample]


@dataclass(frozen=True)
class Scorer:
    """How images are put through an estimator."""

    feeding: Feeding
    precision: Precision
    flip: bool
    eigen: bool
    threads: int
    max_bad_frac: float = 0.01

    def score(
        self,
        estimator: Estimator,
        measured: MeasuredSet,
        indices: Sequence[int],
        *,
        shared: bool = True,
        count: Callable[[int], object] = lambda more: None,
    ) -> Scored:
        """``shared``: every process calls this and does its part; all get the whole. Raises TooManyBadSamples."""

        def row(both: tuple[Pixels, NDArray[np.float32]]) -> Tensor:
            prediction, truth = self.predict(estimator, both[0]), torch.from_numpy(both[1])
            return evaluate_depth(prediction, truth, low=measured.low, high=measured.high, eigen=self.eigen)[0]

        rows, skipped = over(
            estimator,
            indices,
            lambda index: measured.read(index, self.feeding.channels),
            row,
            measured.name,
            shared=shared,
            threads=self.threads,
            most_bad=self.max_bad_frac,
            count=count,
        )
        return Scored({name: finite(value) for name, value in table_of(rows).items()}, len(rows), skipped)

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
