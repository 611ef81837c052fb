"""Do DA3 distillation and Gram anchoring do what they are for? The demo recipe with and without each, several seeds: one JSON
line a run, and a table.

    OMP_NUM_THREADS=1 python -m benchmarks.da3_benefit --out runs/da3_benefit
    OMP_NUM_THREADS=1 python -m benchmarks.da3_benefit --out runs/da3_benefit --arms without gram --seeds 0 1 2 3 4

DA3's teacher is trained here (``benchmarks/da3_teacher.py``), for the published weights are not at hand: it has what DA3 was
trained for, the depth of scenes, but of the scenes that the students see. The Gram teacher is the backbone before step 0. All
arms have the same steps, batches and draws. The arm ``da3-random`` has a DA3 teacher without weights: what it gains is not
geometry. ``start`` is the student before step 0, whose stem is made of the pictures, ``random`` one of random weights.

Measured are frozen EMA backbones by the ``small`` protocols of ``dinov3 eval depth`` and ``seg``, ``homography`` of ``match``, and
k-NN of class tokens; of the DA3 teacher all but k-NN, off its own tokens. What is in OUT/results.jsonl is not computed again, and a
run that was killed goes on. Differences are paired by seed, in brackets their 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.da3_teacher import FOLDER, MEAN, STD, VARIANT, Probed, put_in_place
from benchmarks.gpu_sections.report import git_hash
from benchmarks.learning import cost, machine, train
from benchmarks.over_seeds import table_of_arms
from dinov3.config.blocks.loss import Da3Config
from dinov3.dense.depth import evaluate as evaluate_depth
from dinov3.dense.frozen import Cache
from dinov3.dense.matching.match import homographies
from dinov3.dense.protocols import DEPTH, MATCH, SEGMENT, chosen
from dinov3.dense.report import LeftOut
from dinov3.dense.segment import evaluate as evaluate_segmentation
from dinov3.dense.sets import images_of, open_parts
from dinov3.eval.in_python import evaluate
from dinov3.features.extract import FeatureExtractor, load
from dinov3.features.preprocess import Preprocess
from dinov3.models.da3 import PATCH
from dinov3.runs.folder import RunFolder
from dinov3.runs.step_folders import newest_valid
from dinov3.system.bars import Bar
from dinov3.system.paths import expanded
from dinov3.system.rows import Row, append_row, read_rows
from dinov3.teachers.da3_backbone import build_da3_backbone

TEACHER = [
    *("train.pictures=3200", "train.batch_size_per_gpu=32", "train.num_workers=1"),
    *("optim.epochs=3", "optim.lr=0.002", "optim.warmup_steps=30"),
]
STUDENT = [
    *("evaluation.knn.train=null", "evaluation.knn.test=null", "evaluation.pictures=false"),
    "checkpointing.period=1000",
]
DA3 = ["da3.enabled=true", f"da3.variant={VARIANT}", "da3.dtype=fp32", "da3.projector_hidden_dim=192"]
TAUGHT = "da3.ckpt_path={teacher}"
GRAM = ["gram.use_loss=true", "gram.source=init", "gram.img_level=true"]
UNTRAINED = "train.max_steps=1"  # the rate of step 0 is 0
ARMS: dict[str, list[str]] = {
    "without": [],
    "da3": [*DA3, TAUGHT],
    "da3-random": [*DA3, "da3.random_init=true"],
    "da3-all": [*DA3, TAUGHT, "da3.loss_on=all"],
    "gram": GRAM,
    "gram-and-da3": [*GRAM, *DA3, TAUGHT],
    "start": [UNTRAINED],
    "random": [UNTRAINED, "student.stem=patch"],
}
BASE = "without"
SCENES = "Synthetic:size=64:near=2:seed={seed}:n={n}"
FIGURES = {
    "depth_rmse": "depth RMSE",
    "seg_miou": "mIoU",
    "seg_knn_miou": "mIoU, dense k-NN",
    "match_recall": "match recall",
    "knn_20": "k-NN",
}
GRID = 8  # patches a side of what is probed: the student's at 64 px, the teacher's at 112 px


def probed(extractor: FeatureExtractor, data: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Depth RMSE, mIoU of a linear head and of dense k-NN, and recall within a patch of places seen through a homography, on
    the patches of ``extractor``; ``words`` change the heads."""
    cache: Cache = {}
    depth_rules = chosen(DEPTH, "small", words)
    depth = evaluate_depth(extractor, *open_parts(data, "depth"), depth_rules, cache, LeftOut(), max_bad_frac=0.0)
    seg_rules = chosen(SEGMENT, "small", ["classes=15", *words])
    seg = evaluate_segmentation(extractor, *open_parts(data, "mask"), seg_rules, cache, LeftOut(), max_bad_frac=0.0)
    match = homographies(extractor, images_of(data), replace(MATCH["homography"], debias_images=0), LeftOut())
    return {
        "match_recall": round(match.scores[0]["recall@1p"], 4),
        "depth_rmse": round(depth.scores[0]["rmse"], 4),
        "seg_miou": round(seg.scores[0]["mIoU"], 4),
        "seg_knn_miou": round(seg.scores[1]["mIoU"], 4),
    }


def of_teacher(cfg: Da3Config, args: argparse.Namespace) -> dict[str, Any]:
    """What the teacher's own tokens hold."""
    teacher, _ = build_da3_backbone(cfg)
    fed = Preprocess(MEAN, STD, PATCH, GRID * PATCH)
    return probed(FeatureExtractor(Probed(teacher).eval(), fed, device="cpu"), args.scenes, args.probe)


def teacher_folder(out: Path, words: Sequence[str]) -> Path:
    """The official folder of the teacher of ``out``, trained now unless it was. Raises CalledProcessError."""
    run = out / "teacher"
    command = [sys.executable, "-m", "benchmarks.da3_teacher", "--output-dir", str(run), *TEACHER, *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    newest = newest_valid(run)
    assert newest is not None, "a run that ended well has a checkpoint"
    return newest / FOLDER


def of_student(run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of a finished run."""
    patch = 8  # px, the demo recipe's
    found = probed(load(run, size=GRID * patch, device="cpu"), args.scenes, args.probe)
    votes, scored = (SCENES.format(seed=seed, n=n) for seed, n in ((1, args.labelled), (2, args.labelled // 2)))
    knn = evaluate(run, votes, scored, task="knn", k=[20], cache=args.out / "features")
    return {**found, "knn_20": round(knn["scores"][0]["accuracy"], 4)}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all results of one folder have in common."""
    return {name: getattr(args, name) for name in ("keys", "teacher_keys", "scenes", "labelled", "probe")}


def row_of(arm: str, seed: int, run: Path, args: argparse.Namespace) -> Row:
    """The line of a finished run."""
    facts = {"commit": git_hash(), "machine": machine(), "threads": os.environ.get("OMP_NUM_THREADS")}
    own = {"arm": arm, "seed": seed, **of_student(run, args), **cost(read_rows(RunFolder(run).metrics))}
    return {**own, **settings_of(args), **facts, "torch": torch.__version__}


def results(args: argparse.Namespace) -> None:
    """Train and measure what is not in OUT/results.jsonl yet."""
    path = args.out / "results.jsonl"
    settings, rows = settings_of(args), read_rows(path)
    if strangers := [row for row in rows if any(row.get(name) != value for name, value in settings.items())]:
        sys.exit(f"{path}: has results of other settings ({strangers[0]['keys']}): choose another --out")
    done = {(row["arm"], row["seed"]) for row in rows}
    wanted = [(arm, seed) for seed in args.seeds for arm in args.arms if (arm, seed) not in done]
    if not wanted:
        return
    teacher = None
    if any(TAUGHT in ARMS[arm] for arm, _ in wanted):
        teacher = teacher_folder(args.out, args.teacher_keys)
        put_in_place()
        for arm, cfg in (
            ("teacher", Da3Config(variant=VARIANT, ckpt_path=str(teacher), dtype="fp32")),
            ("teacher without weights", Da3Config(variant=VARIANT, random_init=True, dtype="fp32")),
        ):
            if (arm, 0) not in done:
                append_row(path, {"arm": arm, "seed": 0, **of_teacher(cfg, args), **settings})
    with Bar(len(wanted), about="students", unit="runs") as bar:
        for arm, seed in wanted:
            run = args.out / arm / f"seed-{seed}"
            own = [word.format(teacher=teacher) for word in ARMS[arm]]
            train("demo_cpu", run, seed, [*STUDENT, *args.keys, *own], program="benchmarks.da3_student")
            append_row(path, row_of(arm, seed, run, args))
            bar.update()


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=expanded, required=True)
    found.add_argument("--arms", nargs="+", choices=ARMS, default=["without", "da3", "gram", "start", "random"])
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--scenes", default=SCENES.format(seed=3, n=500), help="with the truths that are probed")
    found.add_argument("--labelled", type=int, default=600, help="images that vote in k-NN; half as many are scored")
    for name, meaning in (("keys", "of all students"), ("teacher-keys", "of the teacher"), ("probe", "of the heads")):
        found.add_argument(f"--{name}", nargs="+", default=[], metavar="key=value", help=f"changes {meaning}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    results(args)
    print(table_of_arms(read_rows(args.out / "results.jsonl"), FIGURES, [*ARMS], BASE))


if __name__ == "__main__":
    main()
