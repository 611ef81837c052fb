"""What a finished detector is judged by: COCO's mean average precision, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.data.decode import Reading
from dinov3.dense.feeding import statistics_of
from dinov3.detect.boxed import BoxedSet, open_parts
from dinov3.detect.detector import Detector
from dinov3.detect.detector_file import PRODUCT, About
from dinov3.detect.metric import SELECT
from dinov3.detect.picture import draw
from dinov3.detect.scoring import Scorer
from dinov3.detect.views import Views
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.evaluation import Judge


class DetectJudge(Judge[Detector, About, BoxedSet]):
    product = PRODUCT
    kind, format = "detection", "dinov3-detection-results"
    tells = {SELECT: "box mAP {}", "mAP50": "mAP50 {}"}  # noqa: RUF012

    def side(self, about: About) -> int:
        return about.side

    def validation(self, data: str, about: About, reading: Reading) -> BoxedSet:
        return open_parts(data, reading, about.classes)[1]

    def scorer(self, about: About, preprocess: Mapping[str, Any], precision: Precision, **reading: Any) -> Scorer:
        views = Views(*statistics_of(preprocess), about.side)
        return Scorer(views, precision, about.least_score, about.overlap, **reading)

    def label(self, about: About) -> str:
        return f"detector of {about.levels} levels"

    def facts(self, about: About) -> dict[str, Any]:
        return {"classes": about.classes, "side": about.side}

    def draw(self, about: About, shown: Sequence[Any], names: Sequence[str], title: str, path: Path) -> None:
        """With the boxes."""
        draw(shown, about.classes, title, path)


JUDGE = DetectJudge()
evaluate, read_results = JUDGE.evaluate, JUDGE.read_results
