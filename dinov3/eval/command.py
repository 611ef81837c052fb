"""``dinov3 eval TASK``: how good are frozen features? The tasks on labelled images are here, the others in OTHERS."""

from __future__ import annotations

import argparse
import math
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from dinov3.data.sources import parse_dataset
from dinov3.distributed import context
from dinov3.eval.knn import knn_predict
from dinov3.eval.labelled import Labelled, hold_out, in_both, labelled_features, same_classes
from dinov3.eval.linear import LEARNING_RATES, fit_linear
from dinov3.eval.logreg import fit_logreg
from dinov3.features.cache import FeatureKind, weights_digest
from dinov3.features.command import add_extractor_arguments, extractor_from
from dinov3.features.errors import FeatureError
from dinov3.features.kept import cache_folder
from dinov3.pictures.retrieval import retrieval_scores
from dinov3.runs.output import check_output_file
from dinov3.runs.scores import NO_SHARES, keep_scores
from dinov3.system.files import write_json
from dinov3.system.paths import expanded

TASKS = {
    "knn": "weighted k-nearest neighbours, for every --k and --temperature",
    "linear": "a linear probe, its learning rate chosen on held-out training images",
    "logreg": "logistic regression (scikit-learn), its penalty chosen on held-out training images",
    "retrieval": "mean average precision and recall of cosine search",
}
# Evaluations with a module of their own: ``add_arguments(parser)`` and ``execute(args)``. Imported by name when chosen.
OTHERS = {
    "seg": ("dinov3.dense.segment_command", "segmentation: a linear head and dense k-NN on frozen patches, mIoU"),
    "depth": ("dinov3.dense.depth_command", "depth: a linear head over bins on frozen patches, RMSE"),
    "match": (
        "dinov3.dense.matching.match_command",
        "correspondence: homographies, SPair, NAVI, keypoints; raw and debiased",
    ),
    "track": ("dinov3.dense.video.track_command", "tracking: masks of a first frame carried through videos, J&F"),
}
POOLED = ("cls", "mean", "cls+mean")
SEED: dict[str, tuple[Any, str]] = {"seed": (0, "of the held-out rows and their order")}
OPTIONS: dict[str, dict[str, tuple[Any, str]]] = {  # task -> option -> default and meaning
    "knn": {"k": ([10, 20, 100, 200], "neighbours that vote"), "temperature": ([0.07], "of the votes' weights")},
    "linear": {
        "learning_rates": (list(LEARNING_RATES), "the grid one is chosen from"),
        "epochs": (30, "passes over the training features"),
        **SEED,
    },
    "logreg": SEED,
    "retrieval": {},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval``: every task has its own beside those of all."""
    parser.description = "Accuracy of frozen features on any labelled data set."
    parser.set_defaults(**{name: default for options in OPTIONS.values() for name, (default, _) in options.items()})
    tasks = parser.add_subparsers(required=True, dest="task", metavar="task")
    for name, text in TASKS.items():
        task = tasks.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _add_common(task)
        for option, (default, meaning) in OPTIONS[name].items():
            nargs = "+" if isinstance(default, list) else None
            kind = type(default[0] if isinstance(default, list) else default)
            shown = " ".join(f"{value:g}" for value in (default if isinstance(default, list) else [default]))
            flag = f"--{option.replace('_', '-')}"
            task.add_argument(flag, nargs=nargs, type=kind, default=default, help=f"{meaning} (default {shown})")
        task.set_defaults(run=execute_labelled)
    for name, (module, text) in OTHERS.items():
        room = import_module(module)
        task = tasks.add_parser(name, help=text)
        room.add_arguments(task)
        task.set_defaults(run=room.execute)


def execute(args: argparse.Namespace) -> int:
    """Run the task that was chosen."""
    code: int = args.run(args)
    return code


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_extractor_arguments(parser, size="train")
    parser.add_argument(
        "--train", required=True, help="labelled images: class subfolders, or a data set as in train.dataset_path"
    )
    parser.add_argument(
        "--test", help="labelled images to score on (default: every fifth image of each class of --train)"
    )
    parser.add_argument("--pool", default="cls", choices=POOLED)
    parser.add_argument("--out", type=expanded, help="JSON file for the results")
    parser.add_argument(
        "--max-bad-frac",
        type=float,
        default=0.01,
        help="share of unreadable images that ends the command (default 0.01)",
    )
    parser.add_argument("--cache", type=expanded, help="folder of feature sets (default: in the user's cache folder)")


def execute_labelled(args: argparse.Namespace) -> int:
    """Run a task on labelled images."""
    if args.task == "logreg" and find_spec("sklearn") is None:
        raise FeatureError("logreg needs scikit-learn: pip install 'dinov3[eval]'")
    check_numbers(args)
    if args.test == args.train:
        raise FeatureError("--test is --train: every image would find itself; leave --test out to hold out a fifth")
    if args.out is not None:
        check_output_file(args.out, "--out")
    sources = {text: parse_dataset(text) for text in (args.train, args.test) if text is not None}
    extractor = extractor_from(args)
    kind, cache = FeatureKind(pool=args.pool), cache_folder(args.cache)
    most = args.max_bad_frac
    sets = {t: labelled_features(extractor, s, t, kind, cache, max_bad_frac=most) for t, s in sources.items()}
    if context.is_main():
        train, test = hold_out(sets[args.train]) if args.test is None else (sets[args.train], sets[args.test])
        test = same_classes(train, test)
        classes = len(train.labels.unique())
        if classes < 2:
            raise FeatureError(f"{args.train}: all images are of one class, there is nothing to tell apart")
        try:
            scores = score(args, train, test)
        except ValueError as error:
            raise FeatureError(str(error)) from error
        report = {
            "task": args.task,
            "weights": str(args.weights),
            "weights_sha256": weights_digest(extractor.backbone),
            "train": args.train,
            "test": args.test or "every fifth image of each class of train",
            "images": {"train": len(train.labels), "test": len(test.labels)},
            "classes": classes,
            **({} if args.task == "retrieval" else {"yardstick": yardstick(train, test)}),
            "pool": args.pool,
            "preprocess": extractor.preprocess.describe(),
            "scores": scores,
            "notes": [*(note for one in sets.values() for note in one.notes), *in_both(train, test)],
        }
        print(table(report))
        keep_scores(args.weights, report)
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.out, report)
    context.teardown()
    return 0


def yardstick(train: Labelled, test: Labelled) -> dict[str, float]:
    """What an accuracy is to be held against: always saying the commonest class of ``train``, and how far chance moves a
    share of so many test images (one standard error, at most)."""
    commonest = torch.bincount(train.labels).argmax()
    return {
        "commonest_class": float((test.labels == commonest).float().mean()),
        "standard_error": 0.5 / math.sqrt(len(test.labels)),
    }


def check_numbers(args: argparse.Namespace) -> None:
    """FeatureError for numbers that give a score without a meaning."""
    for option, values, fits, wanted in (
        ("--k", args.k, lambda v: v >= 1, "at least 1"),
        ("--temperature", args.temperature, lambda v: 0 < v < math.inf, "above 0"),
        ("--learning-rates", args.learning_rates, lambda v: 0 < v < math.inf, "above 0"),
        ("--epochs", [args.epochs], lambda v: v >= 1, "at least 1"),
    ):
        for value in values:
            if not fits(value):
                raise FeatureError(f"{option} {value:g}: {wanted}")


def score(args: argparse.Namespace, train: Labelled, test: Labelled) -> list[dict[str, Any]]:
    """One row a setting; accuracies and other scores between 0 and 1."""
    n_classes = int(max(train.labels.max(), test.labels.max())) + 1
    if args.task == "knn":
        found = dict.fromkeys(min(k, len(train.labels)) for k in args.k)  # no more neighbours than images
        return [_knn(train, test, k, t, n_classes) for k in found for t in args.temperature]
    if args.task == "linear":
        probe = fit_linear(
            train.features,
            train.labels,
            n_classes=n_classes,
            learning_rates=args.learning_rates,
            epochs=args.epochs,
            seed=args.seed,
            quiet=False,
        )
        chosen = probe.learning_rate
        row = {
            "learning_rate": chosen,
            "held_out": probe.validation[chosen],
            "accuracy": _share(probe(test.features).argmax(1), test),
        }
        return [row]
    if args.task == "logreg":
        model = fit_logreg(train.features, train.labels, seed=args.seed)
        predicted = torch.from_numpy(model.predict(test.features.numpy()))
        return [{"C": float(model[-1].C), "accuracy": _share(predicted, test)}]
    return [retrieval_scores(train.features, train.labels, test.features, test.labels)]


def _knn(train: Labelled, test: Labelled, k: int, temperature: float, n_classes: int) -> dict[str, Any]:
    votes = knn_predict(train.features, train.labels, test.features, k=k, temperature=temperature, n_classes=n_classes)
    top5 = (votes.topk(min(5, n_classes), dim=1).indices == test.labels[:, None]).any(1).float().mean()
    return {"k": k, "temperature": temperature, "accuracy": _share(votes.argmax(1), test), "top5": float(top5)}


def _share(predicted: torch.Tensor, test: Labelled) -> float:
    return float((predicted == test.labels).float().mean())


def table(report: dict[str, Any]) -> str:
    """The report for people: shares in per cent."""
    rows = report["scores"]
    cells = [
        [key if key in NO_SHARES else f"{key} %" for key in rows[0]],
        *[[f"{v:g}" if k in NO_SHARES else f"{100 * v:.2f}" for k, v in row.items()] for row in rows],
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    images = report["images"]
    head = f"{report['task']}, {report['pool']} features of {report['weights']}: {images['train']:,} training and {images['test']:,} test images, {report['classes']} classes"
    if held := report.get("yardstick"):
        lines.append(
            f"to compare: always the commonest class {100 * held['commonest_class']:.2f} %; one standard error of these "
            f"{images['test']:,} images is at most {100 * held['standard_error']:.1f} points"
        )
    return "\n".join([head, *lines, *report.get("notes", ())])
