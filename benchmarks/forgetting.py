"""What does continued training cost, and which of the things that hold features hold them? Several seeds: a JSON line a run, and
a table.

    OMP_NUM_THREADS=1 python -m benchmarks.forgetting --backbones runs/cifar10/seed-0 runs/cifar10/seed-1 runs/cifar10/seed-2 \\
        --old CIFAR/train CIFAR/test --new Synthetic:size=32:near=2:seed=1:n=4000 Synthetic:size=32:near=2:seed=2:n=2000 \\
        --images Synthetic:size=32:near=2 --out runs/forgetting

Each BACKBONE, one a seed, is a run of configs/train/cifar10_cpu.yaml on the old images. It goes on for ``--steps`` on ``--images``
by configs/train/cifar10_continue_cpu.yaml: with ``all`` that holds its features, with none of it (``nothing``: a learning rate of
0.003, an EMA of 0.8), and with each part alone. k-NN (20 neighbours) is of frozen class tokens on labelled images of the
old and of the new kind, the first set of each votes; drift is the likeness to the start on the old test images. ``start`` is
the backbone before. What is in OUT/results.jsonl is not computed again. Differences are paired by seed, in brackets their
95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import train
from benchmarks.over_seeds import add_arguments_of_runs, measure_missing, table_of_arms
from dinov3.eval.in_python import evaluate
from dinov3.runs.folder import RunFolder
from dinov3.runs.step_folders import newest_valid
from dinov3.system.paths import expanded
from dinov3.system.rows import Row, read_rows

RECIPE = "cifar10_continue_cpu"
WITHOUT: dict[str, list[str]] = {  # what takes each part of the recipe away
    "feature anchor": ["feature_anchor.enabled=false"],
    "head warm-up": ["head_warmup.when=never"],
    "layer-wise decay": ["optim.layerwise_decay=1.0", "optim.patch_embed_lr_mult=1.0"],
    "low rate": ["optim.lr=0.003"],
    "slow teacher": ["teacher.momentum_teacher=0.8"],
}
ALL, NOTHING, START = "all", "nothing", "start"
ARMS = (START, NOTHING, ALL, *WITHOUT)
FIGURES = {
    "knn_old": "k-NN, old images",
    "knn_new": "k-NN, new images",
    "drift_cls_cosine": "CLS cosine",
    "drift_cls_cka": "CLS CKA",
    "drift_patch_cosine": "patch cosine",
}


def changes(arm: str) -> list[str]:
    """Overrides of the recipe that leave only the part ``arm`` of it."""
    return [] if arm == ALL else [word for part, words in WITHOUT.items() if part != arm for word in words]


def measured(weights: Path, args: argparse.Namespace) -> dict[str, float]:
    """k-NN of frozen class tokens on both kinds of images."""
    found = {}
    for kind in ("old", "new"):
        votes, scored = getattr(args, kind)
        result = evaluate(weights, votes, scored, task="knn", k=[20], size="train", cache=args.out / "features")
        found[f"knn_{kind}"] = round(result["scores"][0]["accuracy"], 4)
    return found


def continued(arm: str, seed: int, backbone: Path, args: argparse.Namespace) -> Row:
    """What one run is worth, trained now unless it was."""
    if arm == START:
        return measured(backbone, args)
    run = args.out / arm.replace(" ", "-") / f"seed-{seed}"
    words = [
        f"train.dataset_path={args.images or args.new[0]}",
        f"student.pretrained_weights={backbone}",
        f"train.max_steps={args.steps}",
        *("evaluation.knn.train=null", "evaluation.knn.test=null", "evaluation.pictures=false"),
        *(f"evaluation.drift.dataset={args.old[1]}", f"evaluation.drift.period={args.steps}"),
        *args.keys,
        *changes(arm),
    ]
    train(RECIPE, run, seed, words)
    last = read_rows(RunFolder(run).evaluation)[-1]
    moved = {key: round(last[key], 4) for key in FIGURES if key in last}
    return {**measured(run, args), **moved}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all results of one folder have in common."""
    return {name: getattr(args, name) for name in ("old", "new", "images", "steps", "keys")}


def starts(args: argparse.Namespace) -> dict[int, Path]:
    """The backbone of each seed."""
    newest = [newest_valid(given) if given.is_dir() else None for given in args.backbones]
    return {
        seed: given if found is None else found / "backbone.safetensors"
        for seed, (given, found) in enumerate(zip(args.backbones, newest, strict=True))
    }


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument(
        "--backbones", type=expanded, nargs="+", required=True, help="one a seed: runs, or backbone.safetensors"
    )
    for kind in ("old", "new"):
        found.add_argument(f"--{kind}", nargs=2, required=True, metavar=("VOTES", "SCORED"), help="labelled images")
    found.add_argument("--images", help="what to continue on (default: the new ones that vote)")
    found.add_argument("--steps", type=int, default=150)
    found.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    add_arguments_of_runs(found)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    begun = starts(args)
    rows = measure_missing(
        args.out / "results.jsonl",
        settings_of(args),
        args.arms,
        begun,
        lambda arm, seed: continued(arm, seed, begun[seed], args),
    )
    print(table_of_arms(rows, FIGURES, ARMS, NOTHING))


if __name__ == "__main__":
    main()
