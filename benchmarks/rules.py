"""Are the choices of ``dinov3 init`` as good as a recipe somebody made by hand? On data the rules were not made from.

    OMP_NUM_THREADS=1 python -m benchmarks.rules cifar3/train --test cifar3/test --recipe cifar10_cpu --out runs/rules/cifar3

``init`` writes the YAML for the training images once, as a user would; it and the recipe are trained on the same images with each
seed, and the EMA backbone's frozen class tokens are scored by k-NN (20 neighbours). Two arms are not trained: ``start`` is
what ``init`` chose before its first step, ``random`` the same without a stem that is made of images. A line a run in
OUT/results.jsonl, which is not computed again; seconds are of training alone. Differences are paired by seed, in brackets
their 95 % interval.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.learning import cost, train
from benchmarks.over_seeds import add_arguments_of_runs, measure_missing, table_of_arms
from dinov3.eval.in_python import evaluate
from dinov3.runs.folder import RunFolder
from dinov3.system.rows import Row, read_rows

INIT, START, RANDOM = "init", "start", "random"
ONE_STEP = "train.max_steps=1"  # its rate is 0
UNTRAINED = {START: [ONE_STEP], RANDOM: [ONE_STEP, "student.stem=patch"]}
FIGURES = {"knn": "k-NN", "images": "images", "train_seconds": "seconds"}


def trained(arm: str, seed: int, args: argparse.Namespace) -> Row:
    """What one run is worth, trained now unless it was."""
    run = args.out / arm / f"seed-{seed}"
    recipe = args.recipe if arm == args.recipe else str(args.out / "init.yaml")
    words = [f"train.dataset_path={args.images}", "evaluation.knn.train=null", "evaluation.knn.test=null"]
    train(recipe, run, seed, [*words, "evaluation.pictures=false", *args.keys, *UNTRAINED.get(arm, [])])
    result = evaluate(run, args.images, args.test, task="knn", k=[20], size="train", cache=args.out / "features")
    spent = {} if arm in UNTRAINED else cost(read_rows(RunFolder(run).metrics))
    return {"knn": round(result["scores"][0]["accuracy"], 4), **spent}


def write_init(args: argparse.Namespace) -> None:
    """OUT/init.yaml, unless it is there."""
    written = args.out / "init.yaml"
    if not written.is_file():
        words = ["init", args.images, "--out", str(written), *(["--shape-only"] if args.shape_only else [])]
        subprocess.run([sys.executable, "-m", "dinov3.cli", *words], check=True, stdout=sys.stderr)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("images", help="labelled images: trained on, and voting afterwards")
    found.add_argument("--test", required=True, help="labelled images that are scored")
    found.add_argument("--recipe", required=True, help="made by hand: short name of a shipped one, or a YAML")
    found.add_argument("--shape-only", action="store_true", help="what init is told of the images")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_arguments_of_runs(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    write_init(args)
    settings = {"data": args.images, "test": args.test, "recipe": args.recipe, "keys": args.keys}
    arms = (START, RANDOM, INIT, args.recipe)
    rows = measure_missing(
        args.out / "results.jsonl", settings, arms, args.seeds, lambda arm, seed: trained(arm, seed, args)
    )
    print(table_of_arms(rows, FIGURES, (START, RANDOM, INIT), args.recipe))


if __name__ == "__main__":
    main()
