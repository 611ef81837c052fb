"""What a finished segmenter is judged by: mean IoU and the other scores of masks, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.data.decode import Reading
from dinov3.dense.feeding import Feeding, statistics_of
from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.sets import open_parts
from dinov3.engine.precision import Precision
from dinov3.finetune.headed.evaluation import Judge
from dinov3.segment.masked import MaskedSet
from dinov3.segment.scoring import Scorer
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.segmenter_file import PRODUCT, About
from dinov3.system.files import replacing


class SegmentJudge(Judge[Segmenter, About, MaskedSet]):
    product = PRODUCT
    kind, format = "segmentation", "dinov3-segmentation-results"
    tells = {"mIoU": "mIoU {}", "aAcc": "pixel accuracy {}"}  # noqa: RUF012

    def side(self, about: About) -> int:
        return about.crop

    def validation(self, data: str, about: About, reading: Reading) -> MaskedSet:
        meaning = SegmentProtocol(ignore=about.ignore, reduce_zero=about.reduce_zero)
        return MaskedSet(open_parts(data, "mask")[1], about.classes, meaning, reading)

    def scorer(self, about: About, preprocess: Mapping[str, Any], precision: Precision, **reading: Any) -> Scorer:
        feeding = Feeding(*statistics_of(preprocess), about.short_side)
        return Scorer(feeding, precision, about.crop, about.stride, **reading)

    def label(self, about: About) -> str:
        return about.head

    def facts(self, about: About) -> dict[str, Any]:
        return {"classes": about.classes, "crop": about.crop, "stride": about.stride}

    def draw(self, about: About, shown: Sequence[Any], names: Sequence[str], title: str, path: Path) -> None:
        """Image, truth, prediction and error."""
        columns = {
            "image": [of_pixels(pixels) for pixels, _, _ in shown],
            "truth": [coloured(truth, about.classes) for _, truth, _ in shown],
            "prediction": [coloured(said, about.classes) for _, _, said in shown],
            "error": [mistakes(said, truth, about.ignore) for _, truth, said in shown],
        }
        with replacing(path) as fresh:
            sheet(columns, list(names), title, fresh)


JUDGE = SegmentJudge()
evaluate, read_results = JUDGE.evaluate, JUDGE.read_results
