"""Section F: what lies around a step: the device feed, saves beside training, and (in ``one_rank.py``) NCCL and FSDP2."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import ROOT, NotHere, Row, SectionReport, device_of
from benchmarks.measure import cost_of, wait_for
from benchmarks.synthetic_step import Recipe, SyntheticStep, crop_loader
from dinov3.contracts import CropBatch
from dinov3.data.augment import photometric, photometric_fused
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS, Augmentation, crop_params
from dinov3.data.augment.photometric import Normalization
from dinov3.data.crops import CropGeometry
from dinov3.runs.background import Background
from dinov3.runs.checkpoint import load_tensors, save_tensors
from dinov3.runs.snapshot import Snapshot
from dinov3.runs.state import digest

TOLERANCE = 1e-5  # of pixels after normalisation, absolute and relative
COLOURS = 1e-4  # of pixels in units of their standard deviation: hue enlarges the rounding of what is nearly gray
BATCHES = 3
TINY_MODEL = {
    "student.embed_dim": 64,
    "student.depth": 2,
    "student.num_heads": 2,
    "dino.head_hidden_dim": 64,
    "dino.head_bottleneck_dim": 32,
    "ibot.head_hidden_dim": 64,
    "ibot.head_bottleneck_dim": 32,
}


def recipe(settings: Settings) -> Recipe:
    if settings.tiny:
        return Recipe(
            "vit_small",
            2,
            global_size=32,
            local_size=16,
            locals=2,
            prototypes=64,
            dtype="fp32",
            compile=False,
            more=TINY_MODEL,
        )
    return Recipe("vit_small", 32, prototypes=8192, compile=False, more={"crops.global_crops_clean": True})


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    with report.item("device feed against host feed") as row:
        row |= feeds(settings, device)
    for size, count in ((256, 64), (112, 128)) if not settings.tiny else ((16, 4),):
        with report.item(f"colours of {count} crops of {size} px, fused against plain") as row:
            row |= colours(settings, device, size, count)
    with report.item("save beside training, and load") as row:
        row |= saves(settings, device)
    with report.item("one rank, in a process of its own") as row:
        command = [sys.executable, "-m", "benchmarks.gpu_sections.one_rank", settings.to_json()]
        timeout = max(report.left() + 20, 20)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        row |= {"exit_code": done.returncode, "passed": done.returncode == 0}
        if done.returncode:
            row["said"] = done.stderr.strip()[-1500:]


def feeds(settings: Settings, device: torch.device) -> Row:
    """The same batches rendered on the host and on the device."""
    if device.type != "cuda" and not settings.tiny:
        raise NotHere("there is no GPU to render on")
    made, dataset = recipe(settings), "Synthetic:n=200:size=48" if settings.tiny else "Synthetic:n=200:size=320"
    workers = 0 if settings.tiny else 4
    worst, different, batches = 0.0, [], []
    for where in (torch.device("cpu"), device):
        with crop_loader(made, dataset, where, workers=workers, dtype=torch.float32) as loader:
            batches.append([next(loader).to(torch.device("cpu")) for _ in range(BATCHES)])
    for host, ours in zip(*batches, strict=True):
        for name, expected in tensors_of(host).items():
            value = tensors_of(ours)[name]
            if not expected.is_floating_point():
                different += [] if torch.equal(value, expected) else [name]
            else:
                worst = max(worst, float(((value - expected).abs() / (1 + expected.abs())).max()))
    return {
        "largest_difference": worst,
        "tolerance": TOLERANCE,
        "different": different,
        "passed": worst <= TOLERANCE and not different,
    }


def colours(settings: Settings, device: torch.device, size: int, count: int) -> Row:
    """The kernels beside the operators, with the default augmentation of as many crops; milliseconds of both."""
    if reason := photometric_fused.why_not(device):
        raise NotHere(reason)
    cfg = recipe(settings).config()
    geometry = CropGeometry.from_config(cfg)
    draws = np.random.default_rng(0).random((geometry.views, -(-count // geometry.views), PHOTOMETRIC_DRAWS))
    params = crop_params(draws, Augmentation.from_config(cfg), geometry)[:count]
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=device)
    one = Normalization(cfg.crops.rgb_mean, cfg.crops.rgb_std, torch.float32, device)
    forms = {"plain": photometric.render, "fused": photometric_fused.render}
    started = time.perf_counter()
    ours, _ = photometric_fused.render(pixels, params, one)
    wait_for(device)
    first = time.perf_counter() - started
    expected, _ = photometric.render(pixels, params, one)
    worst = float((ours - expected).abs().max())
    costs = {name: cost_of(partial(form, pixels, params, one), device, repeats=5).row() for name, form in forms.items()}
    return {"largest_difference": worst, "passed": worst <= COLOURS, "first_seconds": round(first, 2), **costs}


def tensors_of(batch: CropBatch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def saves(settings: Settings, device: torch.device) -> Row:
    """The state is copied and written by a thread while steps go on, then read into another model."""
    step = SyntheticStep(recipe(settings), device)
    step(0)
    state, folder = step.state(), settings.scratch / "save"
    folder.mkdir(parents=True, exist_ok=True)
    before = digest(state)
    copies = Snapshot().take(state)
    copied = digest(copies)
    saving: Background[None] = Background()
    saving.start("the save", lambda: save_tensors(copies, folder / "state"))
    for number in range(1, 4):
        step(number)
    wait_for(device)
    saving.result()
    changed = digest(step.state())
    load_tensors(state, folder / "state")
    loaded = digest(state)
    return {
        "digests": [d[:12] for d in (before, copied, changed, loaded)],
        "pinned": all(t.is_pinned() for t in copies.values()) if device.type == "cuda" else None,
        "passed": before == copied == loaded and changed != before,
    }
