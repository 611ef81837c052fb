"""``dinov3 finetune evaluate CLASSIFIER``: scores of a finished classifier, also with a smaller copy of its backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from dinov3.data.decode import Reading
from dinov3.data.errors import BadImage
from dinov3.distributed.context import choose_device
from dinov3.engine.precision import resolve
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import About, folder_of, load_classifier
from dinov3.finetune.curves import draw_curves, has_curves
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.labelled import LabelledSet, checked_labels, open_labelled, unreadable, with_numbers_of
from dinov3.finetune.measures.metrics import metrics
from dinov3.finetune.predictions import Predicted, write_predictions
from dinov3.finetune.results import (
    CALIBRATED,
    CURVES,
    FORMAT,
    PREDICTIONS,
    RESULTS,
    Results,
    confused,
    finite,
    lines_of,
    scores,
)
from dinov3.finetune.scoring import Scored, Scorer
from dinov3.finetune.views import Views
from dinov3.models.int8 import weights_in
from dinov3.runs.output import check_results_folder
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.files import replacing, write_json

COMPARED = 16  # images whose features are compared with those of the classifier's own backbone
FOREIGN = 0.5  # a mean cosine below it: copies at half their size stay above, other models of its shape are near 0


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
    check_results_folder(asked.out, "--out")
    classifier, about = load_classifier(asked.classifier, asked.backbone)
    views, labelled = _fed(asked, classifier, about)
    notes = _doubts(asked, classifier, about, views, labelled)
    one = _scored(asked, classifier, views, labelled)
    notes += unreadable(labelled, one.skipped, one.images)
    p = one.probabilities()
    results = {**_results(asked, classifier, about, one), "notes": notes}
    name: str = results["run"]
    asked.out.mkdir(parents=True, exist_ok=True)
    write_predictions(asked.out / PREDICTIONS, name, asked.part, Predicted(p, one.labels, one.images, one.names))
    if about.classes == 2 and has_curves(one.labels):
        with replacing(asked.out / f"{CURVES}.png") as fresh:
            draw_curves({name: (p, one.labels)}, fresh)
    write_json(asked.out / RESULTS, results)
    print("\n".join(lines_of(results)))
    return 0


def _fed(asked: Asked, classifier: Classifier, about: About) -> tuple[Views, LabelledSet]:
    stride = classifier.backbone.stride
    if about.size % stride:
        raise FinetuneError(f"{asked.backbone}: a patch of {stride} px does not divide {about.size}")
    return views_of(classifier, about), open_for(about, asked.data)


def _doubts(asked: Asked, classifier: Classifier, about: About, views: Views, labelled: LabelledSet) -> list[str]:
    """What makes the scores mean something else than they seem to, a sentence each."""
    found = []
    content = labelled.source.identity().content
    for known, which in ((about.trained_on, "it was trained on"), (about.validated_on, "that selected its weights")):
        if content == known:
            found.append(f"note: {asked.data} are the images {which}: scores of other images will be lower")
    if not has_curves(labelled.labels):
        found.append(f"note: all images of {asked.data} are of one class: AUROC, AUPRC and curves are not defined")
    if asked.backbone is not None:
        close = _closeness(load_classifier(asked.classifier)[0], classifier, views, labelled)
        if close is not None and close < FOREIGN:
            found.append(foreign(asked.backbone, close))
    return found


def foreign(backbone: Path | None, close: float) -> str:
    """A note on a backbone that the head does not know."""
    return (
        f"note: the features of {backbone} have a mean cosine of {close:.2f} with those that the head was trained on: is it a "
        "copy of this head's backbone?"
    )


@torch.no_grad()
def _closeness(whole: Classifier, other: Classifier, views: Views, labelled: LabelledSet) -> float | None:
    """Mean cosine of what the head sees, over some images that can be read; None of none."""
    cuts = []
    for index in range(0, len(labelled), max(1, len(labelled) // COMPARED)):
        try:
            cuts.append(views.settled().cut(labelled.source, index, None))
        except (BadImage, OSError):
            continue  # counted where all are scored
    if not cuts:
        return None
    images = views.settled().finish(torch.stack(cuts), None)
    return float(torch.cosine_similarity(whole.features(images), other.features(images)).mean())


def _scored(asked: Asked, classifier: Classifier, views: Views, labelled: LabelledSet) -> Scored:
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
        **confused(one.probabilities(), one.labels),
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
        "names": about.names,
        "size": about.size,
        "tta": asked.tta,
        "step": about.step,
        "selected_by": str(asked.classifier),
        "temperature": None if about.temperature is None else {"value": about.temperature, "at_bound": False},
        "parameters": weights_in(classifier),
        "sets": {asked.part: part},
    }


def views_of(classifier: Classifier, about: About) -> Views:
    """How a finished classifier is fed."""
    statistics = cast(Any, classifier.backbone).preprocess
    white = statistics.get("value_range")
    reading = Reading() if white is None else Reading(value_range=(white[0], white[1]))
    return Views(about.size, tuple(statistics["mean"]), tuple(statistics["std"]), reading, stain=about.stain)


def open_for(about: About, text: str) -> LabelledSet:
    """The set that ``text`` names, with the numbers that the classifier gives its classes. Raises DataError."""
    labelled = with_numbers_of(open_labelled(text), about.names)
    return checked_labels(labelled, about.classes, "the classifier")
