"""Does the loader keep its memory? Many images through worker processes; what every process holds, along the way.

    python -m benchmarks.soak [--images 50000] [--workers 2] [--data FOLDER]

Without ``--data`` small JPEGs are made in a temporary folder, a few of them damaged. Prints one JSON line: resident memory
of the parent and of each worker (MB), open files of the parent and use of /dev/shm (MB) after every ``--every`` images, and
``worker_growth``: the largest over the first of each worker's figures, minus 1. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.config.load import load_config
from dinov3.data.loader import CropLoader
from dinov3.data.sources import parse_dataset
from dinov3.data.workers import WorkerPool

BATCH = 50
SETTINGS = (
    "crops.global_crops_size=64",
    "crops.local_crops_size=32",
    "crops.local_crops_number=4",
    "data.max_bad_frac=1",
)


def resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def shared() -> float:
    """Use of /dev/shm, MB."""
    use = os.statvfs("/dev/shm")
    return round((use.f_blocks - use.f_bfree) * use.f_frsize / 2**20, 1)


def make_pictures(folder: Path, number: int = 1000) -> None:
    """JPEGs of 100 to 200 px; one in fifty is cut off."""
    rng = np.random.default_rng(0)
    for n in range(number):
        height, width = rng.integers(100, 200, 2)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{n}.jpg"
        small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path)
        if n % 50 == 0:
            path.write_bytes(path.read_bytes()[:300])


def soak(data: Path, images: int, every: int, workers: int) -> dict[str, object]:
    """Run the loader and watch it."""
    cfg = load_config(None, [*SETTINGS, f"train.batch_size_per_gpu={BATCH}", f"train.num_workers={workers}"])
    rows: list[dict[str, object]] = []
    bad, started = 0, time.perf_counter()

    def count(_: object) -> None:
        nonlocal bad
        bad += 1

    where = {"position": 0, "rank": 0, "world_size": 1, "device": torch.device("cpu"), "dtype": torch.float32}
    with CropLoader(cfg, parse_dataset(str(data)), **where, on_bad=count) as loader:  # type: ignore[arg-type]
        pool = loader._filler
        assert isinstance(pool, WorkerPool)
        pids = [process.pid for process in pool._processes if process.pid is not None]
        for number in range(1, images // BATCH + 1):
            next(loader)
            if number * BATCH % every == 0:
                row = {
                    "images": number * BATCH,
                    "parent": resident(os.getpid()),
                    "workers": [resident(p) for p in pids],
                }
                rows.append(row | {"files": len(os.listdir("/proc/self/fd")), "shm": shared()})
    held = np.array([row["workers"] for row in rows], dtype=float)  # [times, workers]
    return {
        "measurement": "soak of the loader",
        "images": images,
        "images_per_second": round(images / (time.perf_counter() - started), 1),
        "unreadable": bad,
        "worker_growth": [round(float(x), 4) for x in held.max(0) / held[0] - 1],
        "worker_slope_mb_per_10000_images": [
            round(float(np.polyfit(np.arange(len(held)) * every / 1e4, held[:, w], 1)[0]), 3)
            for w in range(held.shape[1])
        ],
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=5_000, help="images between two looks at the memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, help="folder of images; default: small ones made for the purpose")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if args.data is None:
            make_pictures(Path(made))
        print(json.dumps(soak(args.data or Path(made), args.images, args.every, args.workers)))


if __name__ == "__main__":
    main()
