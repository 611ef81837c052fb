"""``dinov3 finetune evaluate CLASSIFIER``: scores of a finished classifier, also with a smaller copy of its backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from dinov3.config.output import check_output_folder
from dinov3.data.decode import Reading
from dinov3.distributed.context import choose_device
from dinov3.engine.precision import resolve
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import About, folder_of, load_classifier
from dinov3.finetune.curves import draw_curves
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.labelled import LabelledSet, checked_labels, open_labelled, renumbered
from dinov3.finetune.metrics import metrics
from dinov3.finetune.predictions import Predicted, write_predictions
from dinov3.finetune.results import (
    CALIBRATED,
    CURVES,
    FORMAT,
    PREDICTIONS,
    RESULTS,
    Results,
    finite,
    scores,
    sentence_of,
)
from dinov3.finetune.scoring import Scored, Scorer
from dinov3.finetune.views import Views
from dinov3.models.int8 import weights_in
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.files import replacing, write_json


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    classifier: Path
    data: str
    out: Path
    backbone: Path | None = None
    tta: bool = False
    part: str = "test"  # what the set is called in tables
    batch: int = 128
    bootstrap: int = 1000
    device: str = "auto"
    max_bad_frac: float = 0.01  # share of the images that may be unusable


def evaluate(asked: Asked) -> int:
    """Write ``results.json``, ``predictions.csv`` and the curves into ``asked.out``; print the line of the scores."""
    check_output_folder(asked.out, "--out")
    classifier, about = load_classifier(asked.classifier, asked.backbone)
    one = _scored(asked, classifier, about)
    p = one.probabilities()
    results = _results(asked, classifier, about, one)
    name: str = results["run"]
    asked.out.mkdir(parents=True, exist_ok=True)
    write_predictions(asked.out / PREDICTIONS, name, asked.part, Predicted(p, one.labels, one.images, one.names))
    if about.classes == 2:
        with replacing(asked.out / f"{CURVES}.png") as fresh:
            draw_curves({name: (p, one.labels)}, fresh)
    write_json(asked.out / RESULTS, results)
    print(sentence_of(results))
    return 0


def _scored(asked: Asked, classifier: Classifier, about: About) -> Scored:
    backbone = classifier.backbone
    statistics = cast(Any, backbone).preprocess
    if about.size % backbone.stride:
        raise FinetuneError(f"{asked.backbone}: a patch of {backbone.stride} px does not divide {about.size}")
    white = statistics.get("value_range")
    reading = Reading() if white is None else Reading(value_range=(white[0], white[1]))
    views = Views(about.size, tuple(statistics["mean"]), tuple(statistics["std"]), reading, stain=about.stain)
    labelled = _labelled(asked.data, about.names, about.classes)
    precision = resolve("bf16", choose_device(asked.device))
    scorer = Scorer(views, precision, batch=asked.batch, threads=cores(), max_bad_frac=asked.max_bad_frac)
    with Bar(len(labelled), about=asked.part, unit="images") as bar:
        images = range(len(labelled))
        return scorer.score(classifier.to(precision.device), labelled, images, tta=asked.tta, count=bar.update)


def _results(asked: Asked, classifier: Classifier, about: About, one: Scored) -> Results:
    part: dict[str, Any] = {
        "data": asked.data,
        "images": len(one.labels),
        "left_out": [asdict(bad) for bad in one.skipped],
        "scores": scores(one.probabilities(), one.labels, resamples=asked.bootstrap, seed=0),
    }
    if about.temperature is not None:
        after = metrics(one.probabilities(about.temperature), one.labels)
        part["calibrated"] = {name: finite(after[name]) for name in CALIBRATED}
    return {
        "format": FORMAT,
        "run": asked.out.resolve().name,
        "label": about.label if asked.backbone is None else f"{about.label}, {asked.backbone.name}",
        "method": "evaluate",
        "weights": str(asked.backbone or folder_of(asked.classifier)),
        "train": "",
        "classes": about.classes,
        "size": about.size,
        "tta": asked.tta,
        "step": about.step,
        "selected_by": str(asked.classifier),
        "temperature": None if about.temperature is None else {"value": about.temperature, "at_bound": False},
        "parameters": weights_in(classifier),
        "sets": {asked.part: part},
    }


def _labelled(text: str, names: list[str] | None, classes: int) -> LabelledSet:
    labelled = open_labelled(text)
    if names is not None and labelled.names is not None and labelled.names != names:
        labelled = renumbered(labelled, names)
    return checked_labels(labelled, classes, "the classifier")
