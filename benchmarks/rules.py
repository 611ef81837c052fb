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

from benchmarks.gpu_sections.report import git_hash
from benchmarks.learning import cost, machine, train
from benchmarks.over_seeds import table_of_arms
from dinov3.eval.in_python import evaluate
from dinov3.runs.folder import RunFolder
from dinov3.system.bars import Bar
from dinov3.system.paths import expanded
from dinov3.system.rows import Row, append_row, read_rows

INIT, START, RANDOM = "init", "start", "random"
UNTRAINED = {
    START: ["train.max_steps=1"],
    RANDOM: ["train.max_steps=1", "student.stem=patch"],
}  # a first step has a rate of 0
FIGURES = {"knn": "k-NN", "images": "images", "train_seconds": "seconds"}


def trained(arm: str, seed: int, args: argparse.Namespace) -> Row:
    """The line of one run, trained now unless it was."""
    run = args.out / arm / f"seed-{seed}"
    recipe = args.recipe if arm == args.recipe else str(args.out / "init.yaml")
    words = [f"train.dataset_path={args.images}", "evaluation.knn.train=null", "evaluation.knn.test=null"]
    train(recipe, run, seed, [*words, "evaluation.pictures=false", *args.keys, *UNTRAINED.get(arm, [])])
    result = evaluate(run, args.images, args.test, task="knn", k=[20], size="train", cache=args.out / "features")
    spent = {} if arm in UNTRAINED else cost(read_rows(RunFolder(run).metrics))
    return {"arm": arm, "seed": seed, "knn": round(result["scores"][0]["accuracy"], 4), **spent}


def results(args: argparse.Namespace) -> None:
    """Train and measure what is not in OUT/results.jsonl yet."""
    path = args.out / "results.jsonl"
    settings = {"data": args.images, "test": args.test, "recipe": args.recipe, "keys": args.keys}
    rows = read_rows(path)
    if any(row.get(name) != value for row in rows for name, value in settings.items()):
        sys.exit(f"{path}: has results of other settings: choose another --out")
    written = args.out / "init.yaml"
    if not written.is_file():
        words = ["init", args.images, "--out", str(written)]
        subprocess.run([sys.executable, "-m", "dinov3.cli", *words], check=True, stdout=sys.stderr)
    done = {(row["arm"], row["seed"]) for row in rows}
    arms = (START, RANDOM, INIT, args.recipe)
    wanted = [(arm, seed) for seed in args.seeds for arm in arms if (arm, seed) not in done]
    with Bar(len(wanted), about="compared", unit="runs") as bar:
        for arm, seed in wanted:
            append_row(path, {**trained(arm, seed, args), **settings, "commit": git_hash(), "machine": machine()})
            bar.update()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("images", help="labelled images: trained on, and voting afterwards")
    found.add_argument("--test", required=True, help="labelled images that are scored")
    found.add_argument("--recipe", required=True, help="made by hand: short name of a shipped one, or a YAML")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument(
        "--keys", nargs="+", default=[], metavar="key=value", help="changes of both, for example train.num_workers=0"
    )
    found.add_argument("--out", type=expanded, required=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    results(args)
    print(table_of_arms(read_rows(args.out / "results.jsonl"), FIGURES, (START, RANDOM, INIT), args.recipe))


if __name__ == "__main__":
    main()
