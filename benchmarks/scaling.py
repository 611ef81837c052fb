"""How the cost of a step grows: measured on this machine, planned for others. A JSON line a point.

    python benchmarks/scaling.py --measure            # batch, resolution, prototypes, processes on this CPU: minutes
    python benchmarks/scaling.py --plan --card h100   # ViT-L on 8, 64, 256 and 1,024 GPUs, from the config alone

Each measured point is a process of its own (`benchmarks/step.py`); several processes are joined by gloo on one machine,
so on two cores more processes than two only take turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.synthetic_step import Recipe
from dinov3.plan.counting import on_the_wire
from dinov3.plan.depth import cost_of_step
from dinov3.system.cards import CARDS, card
from dinov3.system.rows import append_row
from dinov3.train.flops import flops_an_image

HERE = Path(__file__).resolve().parent
BASE = {"batch": 4, "global-size": 112, "local-size": 48, "prototypes": 4096, "processes": 1}
# One thing changes at a time.
GROWING: dict[str, list[int]] = {
    "batch": [2, 4, 8, 16],
    "global-size": [64, 112, 160, 224],
    "prototypes": [1024, 4096, 16384, 65536],
    "processes": [1, 2],
}
GPUS = [8, 64, 256, 1024]
NETWORK = 50e9  # bytes a second out of each GPU: 400 Gbit/s, one adapter a GPU. An assumption
SHARE = 0.40  # of the card's peak; official DINOv3 was measured at 52 % for a ViT-L on one H200


def points() -> Iterator[dict[str, Any]]:
    """What is measured: the base once, then every other value of every axis."""
    yield {"axis": "base", **BASE}
    for axis, values in GROWING.items():
        yield from ({"axis": axis, **BASE, axis: value} for value in values if value != BASE[axis])


def measured(point: dict[str, Any], steps: int, arch: str) -> dict[str, Any]:
    """One point's figures: those of the slowest process."""
    command = [sys.executable, str(HERE / "step.py"), "--arch", arch, "--threads", "1", "--steps", str(steps)]
    command += [word for key in BASE if key != "processes" for word in (f"--{key}", str(point[key]))]
    if point["processes"] > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={point['processes']}"]
        command = [*launcher, "--master-port", "0", "--standalone", *command[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or len(rows) != point["processes"]:
        raise SystemExit(f"{point}: exit code {done.returncode}: {done.stderr[-500:]}")
    slowest = max(rows, key=lambda row: row["seconds_per_step"])
    seconds = slowest["seconds_per_step"]
    return point | {
        "arch": arch,
        "seconds_per_step": seconds,
        "images_per_second": round(point["batch"] * point["processes"] / seconds, 3),
        "peak_gib_of_a_process": max(row["peak_gib"] for row in rows),
    }


def planned(gpus: int, arch: str, batch: int, name: str) -> dict[str, Any]:
    """One number of GPUs: the same images on each, so the batch grows with them."""
    cfg, known = Recipe(arch=arch, batch=batch, drop_path=0.1 if arch == "vit_small" else 0.3).config(), card(name)
    assert known is not None
    cost = cost_of_step(cfg, dtype=torch.bfloat16, processes=gpus)
    computing = flops_an_image(cfg) * batch / (SHARE * known.tflops * 1e12)
    sent = sum(on_the_wire(kind) * count for kind, count in cost.sent.items())
    sending, images = sent / NETWORK, batch * gpus
    return {
        "arch": arch,
        "card": name,
        "gpus": gpus,
        "images_of_a_gpu": batch,
        "images_a_step": images,
        "sharding": cost.strategy,
        "peak_gib": round(cost.peak_bytes / 2**30, 2),
        "sent_gb": round(sent / 1e9, 3),
        "collectives": sum(cost.sent.values()),
        "seconds_computing": round(computing, 4),
        "seconds_sending": round(sending, 4),
        "images_per_second_hidden": round(images / max(computing, sending)),
        "images_per_second_unhidden": round(images / (computing + sending)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure on this machine")
    parser.add_argument("--plan", action="store_true", help="plan for GPUs")
    parser.add_argument("--arch", help="default: vit_tiny measured, vit_large planned")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a point")
    parser.add_argument("--batch", type=int, default=64, help="images of a planned GPU")
    parser.add_argument("--card", default="h100", choices=[known.name for known in CARDS])
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    args = parser.parse_args()
    if not args.measure and not args.plan:
        parser.error("say --measure, --plan or both")
    rows: Iterator[dict[str, Any]] = iter(())
    if args.measure:
        rows = (measured(point, args.steps, args.arch or "vit_tiny") for point in points())
    for row in rows:
        tell(row, args.out)
    for gpus in args.gpus if args.plan else ():
        tell(planned(gpus, args.arch or "vit_large", args.batch, args.card), args.out)


def tell(row: dict[str, Any], out: Path | None) -> None:
    print(json.dumps(row), flush=True)
    if out is not None:
        append_row(out, row)


if __name__ == "__main__":
    main()
