"""Does a recipe learn? Several seeds of it, each evaluated on fixed splits: one JSON line a run.

    python -m benchmarks.learning run cifar10_cpu --train CIFAR/train --test CIFAR/test --name baseline \\
        --change "as it was" --seeds 0 1 2 --out runs/learning
    python -m benchmarks.learning table
    python -m benchmarks.learning curves cifar10_cpu runs/learning/baseline/seed-*
    python -m benchmarks.learning reduced vitl_im1k vits_one_gpu

``run`` trains (a run that is there already is only evaluated), then measures the EMA backbone: k-NN with 20 and with 100
neighbours and a linear probe on all images of both splits, RankMe, and with ``--dense`` segmentation and depth. Its lines are
added to ``benchmarks/records/RECIPE/NAME.jsonl``. ``table`` writes ``benchmarks/records.md`` from all of them. ``curves`` writes the
reference curves of a recipe, ``docs/curves/RECIPE.json`` and ``.png``; ``reduced`` those of the first steps of recipes that are too large for
this machine, with a small model on pictures made on the fly: the file says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sections.report import git_hash
from benchmarks.records import TABLE, records_page
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.eval.in_python import evaluate
from dinov3.overview.reference import mean_of_runs, write_reference
from dinov3.runs.folder import RunFolder
from dinov3.system.files import write_whole
from dinov3.system.rows import Row, append_row, read_rows

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "benchmarks" / "records"
CURVES = ROOT / "docs" / "curves"
NEIGHBOURS = (20, 100)
LARGE = ("cifar10_vits", "photos_vits", "vitl_im1k", "vits_one_gpu")  # recipes that begin with nothing and want a GPU
# What makes their first steps small enough for a CPU; its schedules, losses and temperatures stay.
REDUCED_STEPS, LOOK = 200, "Synthetic:size=96:n={}:seed={}"
REDUCED = {
    "student.embed_dim": 96,
    "student.depth": 3,
    "student.num_heads": 3,
    "dino.head_n_prototypes": 1024,
    "dino.head_hidden_dim": 256,
    "ibot.head_n_prototypes": 1024,
    "ibot.head_hidden_dim": 256,
    "train.batch_size_per_gpu": 32,
    "train.gradient_accumulation_steps": 1,
    "train.dataset_path": "Synthetic:size=96",
}
CROPS = {"crops.global_crops_size": 64, "crops.local_crops_size": 32, "crops.local_crops_number": 4}  # of 224 px
NOT_OF_A_RECIPE = {  # how it is run and looked at
    "train.max_steps": REDUCED_STEPS,
    "train.num_workers": 0,
    "train.log_every": 5,
    "evaluation.knn.train": LOOK.format(1000, 1),
    "evaluation.knn.test": LOOK.format(500, 2),
    "evaluation.knn.period": REDUCED_STEPS // 2,
    "evaluation.pictures": "false",
}
DENSE = {"seg": ("seg_miou", "mIoU"), "depth": ("depth_rmse", "rmse")}


def train(recipe: str, out: Path, seed: int, words: Sequence[str], *, program: str = "dinov3.train") -> None:
    """The run of one seed by the module ``program``; one that has ended is left as it is. Raises CalledProcessError."""
    command = [sys.executable, "-m", program, "--config-file", str(config_file(recipe)), "--output-dir"]
    subprocess.run([*command, str(out), f"train.seed={seed}", *words], check=True, stdout=sys.stderr)


def cost(rows: Iterable[Row]) -> dict[str, Any]:
    """Steps, images, seconds of training alone (neither evaluations nor saves) and the median images/s of a run's metrics."""
    rows = list(rows)
    seconds, before = 0.0, 0
    for row in rows:
        seconds += (row["samples"] - before) / row["images_per_second"]
        before = row["samples"]
    speed = statistics.median(row["images_per_second"] for row in rows)
    return {
        "steps": rows[-1]["iteration"] + 1,
        "images": before,
        "train_seconds": round(seconds, 1),
        "images_per_second": round(speed, 1),
    }


def quality(run: Path, labelled: tuple[str, str], dense: str | None, size: str) -> dict[str, Any]:
    """Shares between 0 and 1 of frozen CLS tokens, at ``size`` px; RankMe of the last look; scores of ``dense`` data."""
    train_set, test_set = labelled
    knn = evaluate(run, train_set, test_set, task="knn", k=list(NEIGHBOURS), size=size)
    linear = evaluate(run, train_set, test_set, task="linear", size=size)
    looks = read_rows(RunFolder(run).evaluation)
    found = {
        **{f"knn_{row['k']}": round(row["accuracy"], 4) for row in knn["scores"]},
        "linear": round(linear["scores"][0]["accuracy"], 4),
        "rankme": round(looks[-1]["rankme"], 2),
        "knn_untrained": round(looks[0]["knn_accuracy"], 4),  # of the run's own, smaller look
        "images_train": knn["images"]["train"],
        "images_test": knn["images"]["test"],
    }
    if dense is not None:
        found |= {key: evaluate(run, dense, task=task)["scores"][0][name] for task, (key, name) in DENSE.items()}
    return found


def machine() -> str:
    """Cores and kind of processor."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} x {model}"


def run(args: argparse.Namespace) -> None:
    """Train and evaluate every seed, a line each."""
    words = [f"evaluation.knn.train={args.train}", f"evaluation.knn.test={args.test}", *args.keys]
    words += [f"train.dataset_path={args.images or args.train}"] if args.images or "Synthetic" not in args.train else []
    for seed in args.seeds:
        out = args.out / args.name / f"seed-{seed}"
        train(args.recipe, out, seed, words)
        row = {
            "recipe": args.recipe,
            "name": args.name,
            "change": args.change,
            "seed": seed,
            "commit": git_hash(),
            **cost(read_rows(RunFolder(out).metrics)),
            **quality(out, (args.train, args.test), args.dense, args.size),
            "keys": args.keys,
            "machine": args.machine or machine(),
            "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "torch": torch.__version__,
        }
        log = LOGS / args.recipe / f"{args.name}.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        append_row(log, row)
        print(row, flush=True)


def table(_: argparse.Namespace) -> None:
    """Write the table of records anew."""
    write_whole(TABLE, records_page(LOGS))
    print(TABLE)


def curves(args: argparse.Namespace) -> None:
    """Write the reference curves of a recipe."""
    reference = mean_of_runs(args.recipe, args.runs, {"commit": git_hash(), "machine": args.machine or machine()})
    CURVES.mkdir(exist_ok=True)
    write_reference(reference, CURVES / f"{args.recipe}.json")
    print(CURVES / f"{args.recipe}.json")


def smaller(recipe: str) -> dict[str, Any]:
    """The keys that make the recipe small."""
    return REDUCED | (CROPS if load_config(config_file(recipe)).crops.global_crops_size == 224 else {})


def reduced(args: argparse.Namespace) -> None:
    """Write the reference curves of the first steps of recipes, at reduced size."""
    for recipe in args.recipes:
        keys, runs = smaller(recipe), [args.out / recipe / f"seed-{seed}" for seed in args.seeds]
        for seed, out in zip(args.seeds, runs, strict=True):
            train(recipe, out, seed, [f"{key}={value}" for key, value in (keys | NOT_OF_A_RECIPE).items()])
        said = " ".join(f"{key}={value}" for key, value in keys.items())
        found = mean_of_runs(recipe, runs, {"commit": git_hash(), "machine": args.machine or machine()})
        found["made"]["reduced"] = f"the first {found['rows'][-1]['iteration'] + 1} steps with {said}"
        write_reference(found, CURVES / f"{recipe}.json")
        print(CURVES / f"{recipe}.json")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = found.add_subparsers(required=True, metavar="task")
    one = tasks.add_parser("run", help="train and evaluate several seeds of a recipe")
    one.add_argument("recipe", help="short name of a shipped recipe")
    for name, meaning in (("train", "labelled images that vote"), ("test", "labelled images that are scored")):
        one.add_argument(f"--{name}", required=True, help=meaning)
    one.add_argument("--images", help="what is trained on (default: --train, or what the recipe makes)")
    one.add_argument("--name", required=True, help="of the log")
    one.add_argument("--change", required=True, help="what differs from the record before, in a few words")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--size", default="train", help="px of evaluated images (default: train, as the run's own looks)")
    one.add_argument("--dense", help="also segmentation and depth on this data set, as --data of `dinov3 eval seg`")
    one.add_argument("--out", type=Path, default=Path("runs/learning"))
    one.add_argument("--keys", nargs="+", default=[], metavar="key=value", help="changes of the recipe, for all seeds")
    one.set_defaults(run=run)
    tasks.add_parser("table", help="write benchmarks/records.md from all logs").set_defaults(run=table)
    mean = tasks.add_parser("curves", help="write the reference curves of a recipe")
    mean.add_argument("recipe")
    mean.add_argument("runs", type=Path, nargs="+", help="finished runs of it, one a seed")
    mean.set_defaults(run=curves)
    small = tasks.add_parser(
        "reduced", help="write the reference curves of the first steps of recipes, at reduced size"
    )
    small.add_argument("recipes", nargs="+", choices=LARGE)
    small.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    small.add_argument("--out", type=Path, default=Path("runs/reduced"))
    small.set_defaults(run=reduced)
    for task in (one, mean, small):
        task.add_argument("--machine", help="what to call this machine (default: cores and processor)")
    return found


def main() -> None:
    args = parser().parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
