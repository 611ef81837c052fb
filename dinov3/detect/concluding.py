"""The end of a run: the selected weights scored on all of validation, and everything written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinov3.detect.boxed import BoxedSet
from dinov3.detect.detector import Detector
from dinov3.detect.detector_file import PRODUCT, About, load_detector
from dinov3.detect.metric import SELECT
from dinov3.detect.picture import SHOWN, draw
from dinov3.detect.scoring import Scored, Scorer
from dinov3.finetune.headed.job import parameters
from dinov3.finetune.headed.selected import place_selected
from dinov3.finetune.results import RESULTS, Results, checked_results
from dinov3.system.files import write_json
from dinov3.system.json_file import Maybe

if TYPE_CHECKING:
    from dinov3.detect.job import DetectJob
    from dinov3.detect.task import DetectTask

PICTURE = "predictions.png"
FORMAT = "dinov3-detection-results"
FORM = {"step": int, "label": str, "images": int, "scores": {SELECT: Maybe(float), "mAP50": Maybe(float)}}


def conclude(job: DetectJob, task: DetectTask, step: int) -> None:
    """Write ``detector/``, ``predictions.png`` and ``results.json``. On the main process alone."""
    run, validation = job.run, job.data[1]
    detector, about = load_detector(place_selected(run, task, step, SELECT, PRODUCT.folder))
    detector.to(task.device)
    scorer = job.scorer(task)
    with job.progress.counting("scores on validation:", len(validation)) as count:
        scored = scorer.score(detector, validation, range(len(validation)), shared=False, count=count)
    picture_of(scorer, detector, validation, scored, about, run.path.resolve().name, run.path / PICTURE)
    results = results_of(scored, about, f"{job.cfg.train.dataset_path}, validation", parameters(task.tuned))
    write_json(run.path / RESULTS, results)  # last: it says that all is there


def picture_of(
    scorer: Scorer, detector: Detector, boxed: BoxedSet, scored: Scored, about: About, name: str, path: Path
) -> None:
    """The first images that can be used, with their boxes."""
    bad = {one.name for one in scored.skipped}
    usable = (index for index in range(len(boxed)) if boxed.name(index) not in bad)
    pairs = [boxed.read(index, scorer.views.channels) for index, _ in zip(usable, range(SHOWN), strict=False)]
    seen = [(pixels, scorer.find(detector, pixels, truth)) for pixels, truth in pairs]
    draw(seen, about.classes, f"{name}: box mAP {scored.precision.scores[SELECT] or 0:.3f}", path)


def results_of(scored: Scored, about: About, data: str, weights: int) -> dict[str, Any]:
    """What ``results.json`` says."""
    return {
        "format": FORMAT,
        "label": f"detector of {about.levels} levels, backbone {'frozen' if about.frozen else 'trained'}",
        "weights": about.weights,
        "data": data,
        "classes": about.classes,
        "side": about.side,
        "step": about.step,
        "parameters": weights,
        "images": scored.images,
        "left_out": [asdict(bad) for bad in scored.skipped],
        "scores": scored.precision.scores,
        "mAP_of_class": scored.precision.of_class,
    }


def read_results(path: Path) -> Results:
    """Raises FinetuneError for a file that is none."""
    return checked_results("detection", path, FORMAT, FORM)


def sentence_of(results: Mapping[str, Any]) -> str:
    """One line of a finished run."""
    scores = results["scores"]
    whole, half = ("not defined" if scores.get(k) is None else f"{scores[k]:.4f}" for k in (SELECT, "mAP50"))
    return f"{results['label']}; {results['images']} images: box mAP {whole}, mAP50 {half}"
