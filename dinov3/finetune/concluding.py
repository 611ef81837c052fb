"""The end of a run: the selected weights scored on validation and test, and everything written down."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import ABOUT, FORMAT, VERSION, load_classifier, place_folder, read_about
from dinov3.finetune.curves import draw_curves, has_curves
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.labelled import unreadable
from dinov3.finetune.measures.calibration import Temperature, fit_temperature
from dinov3.finetune.measures.metrics import metrics
from dinov3.finetune.predictions import Predicted, write_predictions
from dinov3.finetune.results import CALIBRATED, CURVES, PREDICTIONS, RESULTS, confused, finite, scores
from dinov3.finetune.results import FORMAT as RESULTS_FORMAT
from dinov3.finetune.scoring import Scored
from dinov3.finetune.selection import kept, place_of
from dinov3.system.files import replacing, write_json
from dinov3.system.rows import read_rows

if TYPE_CHECKING:
    from dinov3.finetune.job import FinetuneJob
    from dinov3.finetune.task import FinetuneTask


def conclude(job: FinetuneJob, task: FinetuneTask, step: int) -> None:
    """Write ``classifier/``, ``results.json``, ``predictions.csv`` and the curves. On the main process alone."""
    run, judge = job.run, job.cfg.evaluation
    row = kept(run, read_rows(run.evaluation), judge.select)
    chosen = step if row is None else int(row["step"])
    place = place_of(run, chosen)
    if row is None:  # without validation the last weights are kept
        place_folder(place, task.products(copy=False))
    classifier, about = load_classifier(place)
    classifier.to(task.device)
    scored = {name: _scored(job, task, classifier, name) for name in job.data[2]}
    fitted = None
    if judge.temperature and "validation" in scored:
        fitted = fit_temperature(scored["validation"].logits, scored["validation"].labels)
    about = replace(about, temperature=None if fitted is None else fitted.temperature)

    def fill(folder: Path) -> None:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        write_json(folder / ABOUT, {"format": FORMAT, "format_version": VERSION, **asdict(about)})

    place_folder(run.path / "classifier", fill)
    name = run.path.resolve().name
    for part, one in scored.items():
        found = Predicted(one.probabilities(), one.labels, one.images, one.names)
        write_predictions(run.path / PREDICTIONS, name, part, found)
    drawn = {part: (one.probabilities(), one.labels) for part, one in scored.items() if has_curves(one.labels)}
    if about.classes == 2 and drawn:
        for ending in ("png", "svg"):
            with replacing(run.path / f"{CURVES}.{ending}") as fresh:
                draw_curves(drawn, fresh)
    write_json(run.path / RESULTS, _results(job, classifier, scored, fitted, chosen))  # last: it says that all is there


def _scored(job: FinetuneJob, task: FinetuneTask, classifier: Classifier, name: str) -> Scored:
    labelled, tta = job.data[2][name], job.cfg.evaluation.tta
    with job.progress.counting(f"scores on {name}:", len(labelled)) as count:
        scored = job.scorer(task).score(classifier, labelled, range(len(labelled)), tta=tta, shared=False, count=count)
    if not np.isfinite(scored.logits).all():
        raise FinetuneError(f"{name}: the trained classifier gives numbers that are not finite: lower optim.lr")
    return scored


def _results(
    job: FinetuneJob, classifier: Classifier, scored: dict[str, Scored], fitted: Temperature | None, step: int
) -> dict[str, Any]:
    cfg = job.cfg
    sets: dict[str, Any] = {}
    notes = [*job.notes]
    for name, one in scored.items():
        notes += unreadable(job.data[2][name], one.skipped, one.images)
        p = one.probabilities()
        with job.progress.beside(f"intervals of {name}"):
            found = scores(p, one.labels, resamples=cfg.evaluation.bootstrap, seed=cfg.train.seed)
        sets[name] = {
            "data": job.data[2][name].text,
            "images": len(one.labels),
            "left_out": [asdict(bad) for bad in one.skipped],
            "scores": found,
            **confused(p, one.labels),
        }
        if fitted is not None:
            after = metrics(one.probabilities(fitted.temperature), one.labels)
            sets[name]["calibrated"] = {metric: finite(after[metric]) for metric in CALIBRATED}
    about = read_about(job.run.path / "classifier")
    return {
        "format": RESULTS_FORMAT,
        "run": job.run.path.resolve().name,
        "label": about.label,
        "method": cfg.model.method,
        "weights": cfg.model.weights,
        "train": cfg.train.dataset_path,
        "classes": about.classes,
        "names": about.names,
        "size": about.size,
        "tta": cfg.evaluation.tta,
        "step": step,
        "selected_by": f"validation {cfg.evaluation.select}" if "validation" in scored else "the last step",
        "temperature": None if fitted is None else {"value": fitted.temperature, "at_bound": fitted.at_bound},
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "sets": sets,
        "notes": notes,
    }
