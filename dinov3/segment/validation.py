"""What is looked at while a segmenter trains: mean IoU on validation, which selects the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinov3.dense.segmentation import class_scores, summary
from dinov3.engine.look import Look, Row
from dinov3.finetune.classifier_file import place_folder
from dinov3.finetune.results import finite
from dinov3.finetune.selection import PREFIX, best, drop_others, place_of
from dinov3.runs.folder import RunFolder
from dinov3.segment.scoring import Scored
from dinov3.system.rows import read_rows

if TYPE_CHECKING:
    from dinov3.segment.task import SegmentTask

SELECT = "mIoU"


@dataclass
class Scene:
    """A segmenter after ``step`` steps, on every process."""

    step: int
    task: SegmentTask
    scored: Scored | None  # of validation; None: it was measured before
    conclude: Callable[[SegmentTask], None]  # the scores of the end, on the main process


class Validation(Look[Scene]):
    """A row of scores on validation, and the weights kept when they are the best so far."""

    name = "validation"

    def __init__(self, run: RunFolder, period: int) -> None:
        self.run, self.period = run, period

    def measure(self, scene: Scene) -> dict[str, Any]:
        if scene.scored is None:
            return {}
        row: dict[str, Any] = {PREFIX + name: value for name, value in scores_of(scene.scored).items()}
        row["val_images"] = scene.scored.images
        earlier = read_rows(self.run.evaluation)
        now = {"step": scene.step, **row}
        if best([*earlier, now], SELECT) is now:
            place_folder(place_of(self.run, scene.step), scene.task.products(copy=False))
            drop_others(self.run, [*earlier, now], SELECT)
        return row

    def sentence(self, rows: Sequence[Row]) -> str | None:
        found, validated = best(rows, SELECT), [row for row in rows if f"{PREFIX}{SELECT}" in row]
        if found is None:
            return None
        value = found[f"{PREFIX}{SELECT}"]
        shown = "not defined" if value is None else f"{value:.4f}"
        return f"selected step {found['step']} of {validated[-1]['step']}: validation {SELECT} {shown}"


def scores_of(scored: Scored) -> dict[str, float | None]:
    """Means over classes and the accuracy of all pixels."""
    return {name: finite(value) for name, value in summary(scored.total).items()}


def ious_of(scored: Scored) -> list[float | None]:
    """IoU of each class; None for one that neither occurs nor is said."""
    return [finite(float(value)) for value in class_scores(scored.total)["iou"]]
