"""The end of a run: the selected weights scored on all of validation, and everything written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dinov3.dense.depth_picture import draw_depth
from dinov3.depth.estimator import Estimator
from dinov3.depth.estimator_file import PRODUCT, About, load_estimator
from dinov3.depth.measured import MeasuredSet
from dinov3.depth.scoring import SELECT, Scored, Scorer
from dinov3.finetune.headed.job import parameters
from dinov3.finetune.headed.selected import place_selected
from dinov3.finetune.results import RESULTS, Results, checked_results
from dinov3.system.files import replacing, write_json
from dinov3.system.json_file import Maybe

if TYPE_CHECKING:
    from dinov3.depth.job import DepthJob
    from dinov3.depth.task import DepthTask

PICTURE = "predictions.png"
SHOWN = 6  # images of the picture
FORMAT = "dinov3-depth-results"
FORM = {"step": int, "label": str, "images": int, "scores": {SELECT: Maybe(float), str: Maybe(float)}}


def conclude(job: DepthJob, task: DepthTask, step: int) -> None:
    """Write ``estimator/``, ``predictions.png`` and ``results.json``. On the main process alone."""
    run, validation = job.run, job.data[1]
    estimator, about = load_estimator(place_selected(run, task, step, SELECT, PRODUCT.folder))
    estimator.to(task.device)
    scorer = job.scorer(task)
    with job.progress.counting("scores on validation:", len(validation)) as count:
        scored = scorer.score(estimator, validation, range(len(validation)), shared=False, count=count)
    draw(scorer, estimator, validation, scored, run.path.resolve().name, run.path / PICTURE)
    results = results_of(scored, about, f"{job.cfg.train.dataset_path}, validation", parameters(task.tuned))
    write_json(run.path / RESULTS, results)  # last: it says that all is there


def draw(scorer: Scorer, estimator: Estimator, measured: MeasuredSet, scored: Scored, name: str, path: Path) -> None:
    """Image, truth, prediction and error of the first images that can be used."""
    bad = {one.name for one in scored.skipped}
    usable = [index for index in range(len(measured)) if measured.name(index) not in bad][:SHOWN]
    pairs = [measured.read(index, scorer.feeding.channels) for index in usable]
    shown = [(pixels, torch.from_numpy(truth), scorer.predict(estimator, pixels)) for pixels, truth in pairs]
    names, title = [f"image {index}" for index in usable], f"{name}: RMSE {scored.scores[SELECT] or 0:.3f} m"
    with replacing(path) as fresh:
        draw_depth(shown, measured.low, measured.high, names, title, fresh, eigen=scorer.eigen)


def results_of(scored: Scored, about: About, data: str, weights: int) -> dict[str, Any]:
    """What ``results.json`` says."""
    return {
        "format": FORMAT,
        "label": f"{about.head}, backbone {'frozen' if about.frozen else 'trained'}",
        "weights": about.weights,
        "data": data,
        "low": about.low,
        "high": about.high,
        "bins": about.bins,
        "step": about.step,
        "parameters": weights,
        "images": scored.images,
        "left_out": [asdict(bad) for bad in scored.skipped],
        "scores": scored.scores,
    }


def read_results(path: Path) -> Results:
    """Raises FinetuneError for a file that is none."""
    return checked_results("depth", path, FORMAT, FORM)


def sentence_of(results: Mapping[str, Any]) -> str:
    """One line of a finished run."""
    scores = results["scores"]
    rmse, near = ("not defined" if scores.get(k) is None else f"{scores[k]:.4f}" for k in (SELECT, "a1"))
    return f"{results['label']}; {results['images']} images: RMSE {rmse} m, within a factor of 1.25 {near}"
