"""What a finished estimator is judged by: RMSE and the other scores of depth, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.data.decode import Reading
from dinov3.dense.depth_picture import draw_depth
from dinov3.dense.feeding import Feeding, statistics_of
from dinov3.dense.sets import open_parts
from dinov3.depth.estimator import Estimator
from dinov3.depth.estimator_file import PRODUCT, About
from dinov3.depth.measured import MeasuredSet
from dinov3.depth.scoring import Scorer
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.evaluation import Judge
from dinov3.system.files import replacing


class DepthJudge(Judge[Estimator, About, MeasuredSet]):
    product = PRODUCT
    kind, format = "depth", "dinov3-depth-results"
    tells = {"rmse": "RMSE {} m", "a1": "within a factor of 1.25 {}"}  # noqa: RUF012

    def side(self, about: About) -> int:
        return about.crop_height

    def validation(self, data: str, about: About, reading: Reading) -> MeasuredSet:
        return MeasuredSet(open_parts(data, "depth", units=about.units)[1], about.low, about.high, reading)

    def scorer(self, about: About, preprocess: Mapping[str, Any], precision: Precision, **reading: Any) -> Scorer:
        feeding = Feeding(*statistics_of(preprocess), about.short_side)
        return Scorer(feeding, precision, about.flip, about.eigen, **reading)

    def label(self, about: About) -> str:
        return about.head

    def facts(self, about: About) -> dict[str, Any]:
        return {"low": about.low, "high": about.high, "bins": about.bins}

    def draw(self, about: About, shown: Sequence[Any], names: Sequence[str], title: str, path: Path) -> None:
        """Image, truth, prediction and error."""
        with replacing(path) as fresh:
            draw_depth(shown, about.low, about.high, list(names), title, fresh, eigen=about.eigen)


JUDGE = DepthJudge()
evaluate, read_results = JUDGE.evaluate, JUDGE.read_results
