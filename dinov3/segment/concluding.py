"""The end of a run: the selected weights scored on all of validation, and everything written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.finetune.headed.job import parameters
from dinov3.finetune.headed.selected import place_selected
from dinov3.finetune.results import RESULTS, Results, checked_results
from dinov3.segment.scoring import Scored
from dinov3.segment.segmenter_file import FOLDER, About, load_segmenter
from dinov3.segment.validation import SELECT, ious_of, scores_of
from dinov3.system.files import replacing, write_json
from dinov3.system.json_file import Maybe

if TYPE_CHECKING:
    from dinov3.segment.job import SegmentJob
    from dinov3.segment.task import SegmentTask

PICTURE = "predictions.png"
FORMAT = "dinov3-segmentation-results"
FORM = {"step": int, "label": str, "images": int, "scores": {SELECT: Maybe(float), str: Maybe(float)}}


def conclude(job: SegmentJob, task: SegmentTask, step: int) -> None:
    """Write ``segmenter/``, ``predictions.png`` and ``results.json``. On the main process alone."""
    run, validation = job.run, job.data[1]
    segmenter, about = load_segmenter(place_selected(run, task, step, SELECT, FOLDER))
    with job.progress.counting("scores on validation:", len(validation)) as count:
        scored = job.scorer(task).score(
            segmenter.to(task.device), validation, range(len(validation)), shared=False, show=True, count=count
        )
    draw(scored, about, f"{run.path.resolve().name}: mIoU {scores_of(scored)[SELECT] or 0:.3f}", run.path / PICTURE)
    results = results_of(scored, about, f"{job.cfg.train.dataset_path}, validation", parameters(task.segmenter))
    write_json(run.path / RESULTS, results)  # last: it says that all is there


def draw(scored: Scored, about: About, title: str, path: Path) -> None:
    """Image, truth, prediction and error of the first images."""
    columns = {
        "image": [of_pixels(pixels) for pixels, _, _ in scored.shown],
        "truth": [coloured(truth, about.classes) for _, truth, _ in scored.shown],
        "prediction": [coloured(said, about.classes) for _, _, said in scored.shown],
        "error": [mistakes(said, truth, about.ignore) for _, truth, said in scored.shown],
    }
    with replacing(path) as fresh:
        sheet(columns, [f"image {i}" for i in range(len(scored.shown))], title, fresh)


def results_of(scored: Scored, about: About, data: str, parameters: int) -> dict[str, Any]:
    """What ``results.json`` says."""
    return {
        "format": FORMAT,
        "label": f"{about.head}, backbone {'frozen' if about.frozen else 'trained'}",
        "weights": about.weights,
        "data": data,
        "classes": about.classes,
        "crop": about.crop,
        "stride": about.stride,
        "step": about.step,
        "parameters": parameters,
        "images": scored.images,
        "left_out": [asdict(bad) for bad in scored.skipped],
        "scores": scores_of(scored),
        "iou_of_class": ious_of(scored),
    }


def read_results(path: Path) -> Results:
    """Raises FinetuneError for a file that is none."""
    return checked_results("segmentation", path, FORMAT, FORM)


def sentence_of(results: Mapping[str, Any]) -> str:
    """One line of a finished run."""
    scores = results["scores"]
    miou, pixels = ("not defined" if scores.get(k) is None else f"{scores[k]:.4f}" for k in (SELECT, "aAcc"))
    return f"{results['label']}; {results['images']} images: mIoU {miou}, pixel accuracy {pixels}"
