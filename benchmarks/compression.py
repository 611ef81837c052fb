"""What does a smaller classifier lose? Energy rules against calibrated methods, before and after recovery, over seeds.

    python -m benchmarks.compression runs/seed0 runs/seed1 runs/seed2 --calibrate IMAGES --test LABELLED --out runs/table
    … --distil 2                                            # each is drawn to the whole model's tokens on IMAGES, no labels
    … --tune 2 --train LABELLED --validation LABELLED       # each is fine-tuned with its head

Each RUN is a finished run of `dinov3 finetune`, one a seed. Scores are of test, one view, by the run's own head (after --tune by
the head that was trained with it). A line a result goes to OUT/results.jsonl; what is there is not computed again. `lost` is
what the copy is worse than the run: NLL goes up where accuracy goes down, and shows what 10,000 images are too few for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.over_seeds import spread
from dinov3.compress.costs import Costs
from dinov3.compress.labelled import pictures
from dinov3.compress.methods import Settings, compress
from dinov3.compress.moments import token_count
from dinov3.compress.options import steps_of
from dinov3.data.sources import parse_dataset
from dinov3.engine.precision import resolve
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.classifier import Classifier
from dinov3.finetune.classifier_file import About, load_classifier, write_classifier
from dinov3.finetune.evaluate import views_of
from dinov3.finetune.labelled import LabelledSet, open_labelled
from dinov3.finetune.measures.metrics import metrics
from dinov3.finetune.results import read_results
from dinov3.finetune.scoring import Scorer
from dinov3.finetune.selection import LOWER_IS_BETTER
from dinov3.system.bars import Bar
from dinov3.system.cores import cores
from dinov3.system.paths import expanded
from dinov3.system.rows import append_row, read_rows
from dinov3.weights.own import load_backbone
from dinov3.weights.provenance import Facts

METHODS = ("heads,mlp,svd", "variance", "compensate", "whitened")  # the first is the energy rules
Row = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=expanded)
    parser.add_argument("--calibrate", required=True, help="images, labels are not looked at")
    parser.add_argument("--images", type=int, default=128, help="of them (default 128)")
    parser.add_argument("--test", required=True)
    parser.add_argument("--train", help="with --tune")
    parser.add_argument("--validation", help="with --tune")
    parser.add_argument("--left", type=float, nargs="+", default=[0.93, 0.75, 0.5], help="shares of parameters")
    parser.add_argument("--metrics", nargs="+", default=["Acc", "NLL"])
    parser.add_argument("--distil", type=int, default=0, help="epochs of IMAGES (default 0: none)")
    parser.add_argument("--tune", type=int, default=0, help="epochs of --train (default 0: none)")
    parser.add_argument("--lr", type=float, default=5e-4, help="of both")
    parser.add_argument("--out", required=True, type=expanded)
    return parser.parse_args()


def score(classifier: Classifier, about: About, test: LabelledSet, names: list[str]) -> dict[str, float]:
    scorer = Scorer(views_of(classifier, about), resolve("fp32", torch.device("cpu")), batch=64, threads=cores())
    one = scorer.score(classifier, test, range(len(test)))
    found = metrics(one.probabilities(), one.labels)
    return {name: found[name] for name in names}


def results_of(run: Path, args: argparse.Namespace, test: LabelledSet) -> Iterator[Row]:
    """The whole classifier, then every method at every size."""
    classifier, about = load_classifier(run)
    backbone = classifier.backbone
    statistics = cast(Any, backbone).preprocess
    whole = score(classifier, about, test, args.metrics)
    yield {"run": str(run), "method": "none", "left": 1.0, "score": whole}
    preprocess = Preprocess(tuple(statistics["mean"]), tuple(statistics["std"]), backbone.stride, about.size)
    images = pictures(parse_dataset(args.calibrate), preprocess, args.images, "--calibrate", labelled=False)
    tokens = token_count(backbone, torch.empty(1, 1, about.size, about.size))
    settings = Settings(Costs("parameters", tokens, about.size, "none"), 1, True)
    before = sum(p.numel() for p in backbone.parameters())
    for left in args.left:
        for method in METHODS:
            steps = steps_of(backbone, method.split(","), None, left, settings)
            small, _ = compress(backbone, steps, settings, images.batches(32))
            object.__setattr__(small, "preprocess", statistics)
            copy = Classifier(small, about.classes, about.pool)
            copy.head.load_state_dict(classifier.head.state_dict())
            row = {
                "run": str(run),
                "method": method,
                "left": left,
                "score": score(copy.eval(), about, test, args.metrics),
            }
            row["share"] = sum(p.numel() for p in small.parameters()) / before
            row |= won_back(copy, about, run, args, f"{method.replace(',', '-')}-{left:g}", test)
            yield row


def won_back(copy: Classifier, about: About, run: Path, args: argparse.Namespace, name: str, test: LabelledSet) -> Row:
    """Scores of the copy after --distil and after --tune, both from where it is, by the one trainer."""
    folder = args.out / "recovered" / run.name
    start = folder / f"{name}-start"
    start.mkdir(parents=True, exist_ok=True)
    write_classifier(start, copy, about, Facts({**cast(Any, copy.backbone).preprocess}))
    common = [f"model.weights={start}", f"model.size={about.size}", f"optim.lr={args.lr}", "train.num_workers=2"]
    found: Row = {}
    if args.distil:
        words = ["task=recover", f"model.teacher={run}", f"train.dataset_path={args.calibrate}"]
        words += [f"optim.epochs={args.distil}", "train.batch_size_per_gpu=64", "evaluation.max_images=64"]
        back = load_backbone(_trained(folder / f"{name}-distilled", [*common, *words]) / "recovered")
        distilled = Classifier(back, about.classes, about.pool)
        distilled.head.load_state_dict(copy.head.state_dict())
        found["distilled"] = score(distilled.eval(), about, test, args.metrics)
    if args.tune:
        words = [f"model.head={start}", "model.method=fullft", "evaluation.bootstrap=0", f"optim.epochs={args.tune}"]
        words += [f"train.dataset_path={args.train}", f"evaluation.validation={args.validation}"]
        words += [f"evaluation.test={args.test}", "train.batch_size_per_gpu=64"]
        results = read_results(_trained(folder / f"{name}-tuned", [*common, *words]) / "results.json")
        scores = results["sets"]["test"]["scores"]
        found["tuned"] = {name: scores[name]["value"] for name in args.metrics}
    return found


def _trained(folder: Path, words: list[str]) -> Path:
    """The folder of a finished run."""
    command = [sys.executable, "-m", "dinov3.cli", "finetune", "--output-dir", str(folder), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def table(rows: list[Row], names: list[str]) -> str:
    """What is lost of every metric, without training and after it: mean and spread over runs, in Markdown."""
    whole = {row["run"]: row["score"] for row in rows if row["method"] == "none"}
    kinds = [kind for kind in ("score", "distilled", "tuned") if any(kind in row for row in rows)]
    said = {"score": "as it is", "distilled": "distilled", "tuned": "fine-tuned"}
    start = [f"{name} {spread([scores[name] for scores in whole.values()])}" for name in names]
    columns = [f"{name} lost, {said[kind]}" for name in names for kind in kinds]
    lines = [f"whole, {len(whole)} runs: {', '.join(start)}", ""]
    lines += ["| left | method | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for left in dict.fromkeys(row["left"] for row in rows if row["method"] != "none"):
        for method in METHODS:
            own = [row for row in rows if (row["method"], row["left"]) == (method, left)]
            cells = [f"{left:g}", method]
            for name in names:
                sign = -1 if name in LOWER_IS_BETTER else 1
                for kind in kinds:
                    lost = [sign * (whole[row["run"]][name] - row[kind][name]) for row in own if kind in row]
                    cells.append(spread(lost, "+"))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    if args.tune and not (args.train and args.validation):
        sys.exit("--tune needs --train and --validation")
    args.out.mkdir(parents=True, exist_ok=True)
    path, test = args.out / "results.jsonl", open_labelled(args.test)
    done = {row["run"] for row in read_rows(path) if row["left"] == args.left[-1] and row["method"] == METHODS[-1]}
    wanted = [run for run in args.runs if str(run) not in done]
    with Bar(len(wanted) * (1 + len(args.left) * len(METHODS)), about="compression", unit="results") as bar:
        for run in wanted:
            for row in results_of(run, args, test):
                append_row(path, row)
                bar.update()
    last = {(row["run"], row["method"], row["left"]): row for row in read_rows(path)}
    print(table([*last.values()], args.metrics))


if __name__ == "__main__":
    main()
