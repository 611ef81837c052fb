"""Box mean average precision as COCO defines it, counted by its own tool (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.config.errors import ConfigError
from dinov3.detect.boxes import Boxes
from dinov3.finetune.results import finite

SELECT = "mAP"
NAMES = (SELECT, "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")  # in the order of COCO's summary
RECALL = ("AR1", "AR10", "AR100")


@dataclass(frozen=True)
class Found:
    """What was said of one image, in its own pixels, with the truth."""

    truth: Boxes
    corners: NDArray[np.float32]  # [n, 4]
    scores: NDArray[np.float32]  # [n]
    classes: NDArray[np.int64]  # [n]


@dataclass(frozen=True)
class Precision:
    """Scores of a set; None: there is no box of that kind."""

    scores: dict[str, float | None]  # NAMES and RECALL
    of_class: list[float | None]  # mAP


def check_installed() -> None:
    """ConfigError with what to install."""
    if find_spec("pycocotools") is None:
        raise ConfigError("", "task", "detect counts box mAP by pycocotools: pip install 'dinov3[detect]'")


def mean_average_precision(found: Sequence[Found], classes: int) -> Precision:
    """Means over IoU of 0.5 to 0.95 and over classes, of all images together; crowds and ignored boxes count nowhere."""
    check_installed()
    with contextlib.redirect_stdout(io.StringIO()):  # it tells how long it took
        truth, said = _index(_truths(found), len(found), classes), _index(_answers(found), len(found), classes)
        judge = import_module("pycocotools.cocoeval").COCOeval(truth, said, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    precision: NDArray[np.float64] = judge.eval["precision"]  # [IoU, recall, class, size, most boxes]
    values = [float(value) for value in judge.stats[: len(NAMES) + len(RECALL)]]
    known = dict(zip((*NAMES, *RECALL), (_defined(value) for value in values), strict=True))
    return Precision(known, [_mean(precision[:, :, number, 0, -1]) for number in range(classes)])


def _index(rows: list[dict[str, Any]], images: int, classes: int) -> Any:
    coco = import_module("pycocotools.coco").COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": number} for number in range(classes)],
        "annotations": [{"id": number + 1, **row} for number, row in enumerate(rows)],  # 0 would read as "no match"
    }
    coco.createIndex()
    return coco


def _truths(found: Sequence[Found]) -> list[dict[str, Any]]:
    return [
        _row(number, box, cls) | {"iscrowd": int(ignored), "area": float(area)}
        for number, one in enumerate(found)
        for box, cls, ignored, area in zip(
            one.truth.corners, one.truth.classes, one.truth.ignored, one.truth.areas, strict=True
        )
    ]


def _answers(found: Sequence[Found]) -> list[dict[str, Any]]:
    rows = []
    for number, one in enumerate(found):
        for box, score, cls in zip(one.corners, one.scores, one.classes, strict=True):
            row = _row(number, box, cls)
            rows.append(row | {"score": float(score), "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0})
    return rows


def _row(image: int, box: NDArray[np.float32], cls: np.int64) -> dict[str, Any]:
    left, top, right, bottom = (float(number) for number in box)
    return {"image_id": image, "category_id": int(cls), "bbox": [left, top, right - left, bottom - top]}


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]
    return finite(float(known.mean())) if len(known) else None


def _defined(value: float) -> float | None:
    return None if value < 0 else value
