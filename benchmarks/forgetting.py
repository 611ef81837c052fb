"""What does continued training cost, with and without what holds the features? One JSON line a run.

    python benchmarks/forgetting.py --train CIFAR/train --test CIFAR/test --backbone runs/cifar10 --out runs/forgetting

``--backbone``: the run of configs/train/cifar10_cpu.yaml, or its backbone.safetensors. Both runs follow
configs/train/cifar10_continue_cpu.yaml; ``without`` is the recipe at the learning rate and EMA of pretraining with
nothing held. Their folders have the curves. Minutes each on an idle core; ``--steps`` makes it shorter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from dinov3.runs.step_folders import newest_valid
from dinov3.system.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "configs" / "train" / "cifar10_continue_cpu.yaml"
RUNS: dict[str, list[str]] = {
    "with": [],
    "without": [
        "feature_anchor.enabled=false",
        "head_warmup.when=never",
        "optim.layerwise_decay=1.0",
        "optim.patch_embed_lr_mult=1.0",
        "optim.lr=0.003",
        "teacher.momentum_teacher=0.8",
    ],
}
FIGURES = ("knn_accuracy", "drift_cls_cosine", "drift_cls_cka", "drift_patch_cosine", "drift_patch_cka")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "backbone", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--images", help="what to continue on, as in train.dataset_path (default: --train)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides for both runs")
    args = parser.parse_intermixed_args()
    backbone = Path(args.backbone)
    if (newest := newest_valid(backbone) if backbone.is_dir() else None) is not None:
        backbone = newest / "backbone.safetensors"
    common = [
        f"train.dataset_path={args.images or args.train}",
        f"evaluation.knn.train={args.train}",
        f"evaluation.knn.test={args.test}",
        f"evaluation.drift.dataset={args.test}",
        f"student.pretrained_weights={backbone}",
        f"train.max_steps={args.steps}",
        *args.opts,
    ]
    for name, changes in RUNS.items():
        out = Path(args.out) / name
        command = [sys.executable, "-m", "dinov3.train", "--config-file", str(RECIPE), "--output-dir", str(out)]
        subprocess.run([*command, *common, *changes], check=True, stdout=sys.stderr)
        first, *_, last = read_rows(out / "evaluation.jsonl")
        moved = {key: round(last[key], 4) for key in FIGURES}
        print(
            json.dumps({"run": name, "steps": last["step"], "knn_at_start": round(first["knn_accuracy"], 4), **moved})
        )


if __name__ == "__main__":
    main()
