"""The scores of a segmenter on validation; the mean IoU selects the weights."""

from __future__ import annotations

from dinov3.dense.segmentation import class_scores, summary
from dinov3.finetune.results import finite
from dinov3.segment.scoring import Scored

SELECT = "mIoU"


def scores_of(scored: Scored) -> dict[str, float | None]:
    """Means over classes and the accuracy of all pixels."""
    return {name: finite(value) for name, value in summary(scored.total).items()}


def ious_of(scored: Scored) -> list[float | None]:
    """IoU of each class; None for one that neither occurs nor is said."""
    return [finite(float(value)) for value in class_scores(scored.total)["iou"]]
