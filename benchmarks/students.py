"""What does sharing the teacher's pass save? One JSON line: seconds a step of two students apart, and together.

    python benchmarks/students.py --out /tmp/students --teacher vit_base --width 192 --batch 8 --steps 8

Two processes in both cases, one thread each unless OMP_NUM_THREADS says otherwise. ``apart``: each student is distilled by
a run of its own, both at the same time, each with a whole pass of the teacher. ``together``: ``multidistillation``.
The teacher is random. Medians over the steps after the first two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from dinov3.system.rows import read_rows

NAMES = ("first", "second")
WARM_UP = 2  # steps
CROPS = ["crops.local_crops_number=2", "crops.global_crops_size=224", "crops.local_crops_size=96"]
HEADS = [f"{block}.head_n_prototypes=4096" for block in ("dino", "ibot")]


def start(out: Path, opts: list[str], processes: int = 1) -> subprocess.Popen[bytes]:
    """Training in ``out``."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, "-m", "dinov3.train", "--output-dir", str(out), *CROPS, *HEADS, *opts]
    return subprocess.Popen(command, stdout=sys.stderr)


def finish(*runs: subprocess.Popen[bytes]) -> None:
    codes = [run.wait() for run in runs]
    if any(codes):
        raise SystemExit("a run failed: see above")


def seconds_a_step(out: Path, batch: int) -> float:
    """Median over the steps after the warm-up."""
    rows = read_rows(out / "metrics.jsonl")[WARM_UP:]
    return statistics.median(batch / row["images_per_second"] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", default="vit_base", help="its arch")
    parser.add_argument("--width", type=int, default=192, help="of both students, 12 blocks deep")
    parser.add_argument("--batch", type=int, default=8, help="images a step, for each student")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    data = ["train.dataset_path=Synthetic:n=512:size=256", "train.num_workers=0", "train.log_every=1"]
    data += ["evaluation.pictures=false"]
    teacher = args.out / "teacher"
    finish(start(teacher, [*data, f"student.arch={args.teacher}", "train.batch_size_per_gpu=2", "train.max_steps=1"]))
    common = [*data, f"train.max_steps={args.steps}", "student.arch=vit_small", f"student.embed_dim={args.width}"]
    common += [f"student.num_heads={args.width // 64}", "distillation.enabled=true"]
    common += [f"distillation.full_cfg_path={teacher / 'config.yaml'}", f"distillation.checkpoint_path={teacher}"]

    alone = [*common, f"train.batch_size_per_gpu={args.batch}"]
    finish(*[start(args.out / "apart" / name, alone) for name in NAMES])
    (args.out / "student.yaml").write_text("{}\n")
    layout = [
        {"name": name, "config_path": str(args.out / "student.yaml"), "ranks_range": [number, number + 1]}
        for number, name in enumerate(NAMES)
    ]
    several = ["multidistillation.enabled=true", f"multidistillation.global_batch_size={args.batch}"]
    several += [f"multidistillation.students={json.dumps(layout)}"]
    finish(start(args.out / "together", [*common, *several], processes=2))

    figures = {
        where: statistics.mean(seconds_a_step(args.out / where / name, args.batch) for name in NAMES)
        for where in ("apart", "together")
    }
    settings = {name: getattr(args, name) for name in ("teacher", "width", "batch", "steps")}
    print(json.dumps({**settings, **figures, "ratio": figures["apart"] / figures["together"]}))


if __name__ == "__main__":
    main()
