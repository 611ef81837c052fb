"""Time and memory of one training step on synthetic crops: one JSON line.

python benchmarks/step.py --arch vit_small --batch 8 --global-size 224 --local-size 96 --prototypes 65536 --steps 5
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dinov3.config.load import load_config
from dinov3.contracts import CropBatch
from dinov3.engine.optim import build_optimizer
from dinov3.engine.precision import resolve
from dinov3.engine.schedules import build_schedules
from dinov3.runs.state import allocate_optimizer_state
from dinov3.train.loop import train_step
from dinov3.train.ssl_meta_arch import SSLMetaArch

# The official code on two cores: ViT-S/16, 2 x 224 + 8 x 96, batch 8, 2 x 65,536 prototypes, fp32.
REFERENCE = {"seconds_per_step": 6.7, "images_per_second": 1.19, "peak_gb": 4.66}


def synthetic_batch(args: argparse.Namespace, device: torch.device) -> CropBatch:
    """Noise crops; half of the global crops are masked, 10 to 50 % of their patches, as in the default recipe."""
    g, n_images = torch.Generator().manual_seed(0), 2 * args.batch
    n_patches = (args.global_size // args.patch) ** 2
    masks = torch.zeros(n_images, n_patches, dtype=torch.bool)
    for i, ratio in enumerate(torch.linspace(0.1, 0.5, n_images // 2 + 1)[1:].tolist()):
        masks[i, torch.randperm(n_patches, generator=g)[: int(n_patches * ratio)]] = True
    indices = masks.flatten().nonzero().flatten()
    weights = (1 / masks.sum(-1).clamp(min=1))[:, None].expand_as(masks)[masks]
    return CropBatch(
        collated_global_crops=torch.randn(n_images, 3, args.global_size, args.global_size, generator=g),
        collated_local_crops=torch.randn(args.locals * args.batch, 3, args.local_size, args.local_size, generator=g),
        collated_masks=masks,
        mask_indices_list=indices,
        masks_weight=weights,
        n_masked_patches=torch.tensor([len(indices)]),
        upperbound=len(indices),
        global_batch_size=args.batch,
    ).to(device)


class Parts:
    """Seconds spent in named parts of a step, by wrapping the functions that do them."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._cuda = device.type == "cuda"

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        if self._cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        if self._cuda:
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - start

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)


class PeakMemory:
    """Largest resident set of this process while training, sampled, minus nothing: what `top` shows."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak, self._stop = device, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, self._resident())

    @staticmethod
    def _resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
        return pages * resource.getpagesize() / 1e9

    def close(self) -> float:
        self._stop.set()
        self._thread.join()
        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else self.peak


def build(args: argparse.Namespace, device: torch.device) -> tuple[SSLMetaArch, torch.optim.Optimizer, Any]:
    overrides = {
        "student.arch": args.arch,
        "student.patch_size": args.patch,
        "student.drop_path_rate": args.drop_path,
        "student.n_storage_tokens": 4,
        "student.norm_layer": "layernormbf16",
        "student.mask_k_bias": True,
        "dino.head_n_prototypes": args.prototypes,
        "ibot.head_n_prototypes": args.prototypes,
        "crops.global_crops_size": args.global_size,
        "crops.local_crops_size": args.local_size,
        "crops.local_crops_number": args.locals,
        "train.batch_size_per_gpu": args.batch,
        "train.compile": args.compile,
        "compute_precision.param_dtype": args.dtype,
    }
    cfg = load_config(None, [f"{k}={v}" for k, v in overrides.items()])
    model = SSLMetaArch(cfg, device, resolve(args.dtype, device))
    model.init_weights(torch.Generator(device).manual_seed(0))
    model.prepare_for_distributed_training()
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    return model, optimizer, build_schedules(cfg, world_size=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--global-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--locals", type=int, default=8)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="measured steps, after 2 that are not")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, optimizer, schedules = build(args, device)
    batch, memory, parts = synthetic_batch(args, device), PeakMemory(device), Parts(device)
    seconds = []
    for step in range(args.steps + 2):
        if step == 2:  # the shares are of measured steps only; wrapping costs microseconds
            parts.wrap(model, "get_teacher_output", "teacher")
            parts.wrap(model, "get_student_output", "student forward")
            parts.wrap(model, "compute_losses", "losses forward")
            parts.wrap(model, "forward_backward", "forward and backward")
            parts.wrap(optimizer, "step", "optimizer")
            parts.wrap(model, "update_ema", "ema")
        start = time.perf_counter()
        train_step(model, optimizer, schedules.at(step + 1), batch, iteration=step, clip_grad=3.0)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    per_step = {k: v / args.steps for k, v in parts.seconds.items()}
    inner = per_step["teacher"] + per_step["student forward"] + per_step["losses forward"]
    per_step["backward"] = per_step.pop("forward and backward") - inner
    result = {
        "benchmark": "step",
        **{k: v for k, v in vars(args).items() if k != "threads"},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seconds_per_step": round(median, 3),
        "images_per_second": round(args.batch / median, 2),
        "peak_gb": round(memory.close(), 2),
        "share": {k: round(v / median, 3) for k, v in per_step.items()},
        "reference_two_idle_cores": REFERENCE,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
