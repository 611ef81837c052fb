"""Section E: a run of 6 steps against one that ends after 3 and is continued in a new process, bit for bit."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import ROOT, Row, SectionReport
from dinov3.config.schema import Config

STEPS, HALF = 6, 3
DETERMINISTIC_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCHINDUCTOR_DETERMINISTIC": "1"}
KEYS: dict[str, Any] = {
    "student.arch": "vit_small",
    "student.depth": 2,
    "student.drop_path_rate": 0.1,
    "student.n_storage_tokens": 4,
    "crops.global_crops_size": 128,
    "crops.local_crops_size": 64,
    "crops.local_crops_number": 4,
    "dino.head_n_prototypes": 4096,
    "ibot.head_n_prototypes": 4096,
    "train.dataset_path": "Synthetic:n=256:size=160",
    "train.batch_size_per_gpu": 16,
    "train.OFFICIAL_EPOCH_LENGTH": 4,
    "train.num_workers": 1,
    "train.log_every": 1,
    "optim.epochs": 3,
    "optim.warmup_epochs": 1,
    "teacher.warmup_teacher_temp_epochs": 1,
    "checkpointing.period": HALF,
    "evaluation.pictures": False,
}
TINY: dict[str, Any] = {
    "student.embed_dim": 64,
    "student.num_heads": 2,
    "crops.global_crops_size": 32,
    "crops.local_crops_size": 16,
    "dino.head_n_prototypes": 64,
    "dino.head_hidden_dim": 64,
    "dino.head_bottleneck_dim": 32,
    "ibot.head_n_prototypes": 64,
    "ibot.head_hidden_dim": 64,
    "ibot.head_bottleneck_dim": 32,
    "train.dataset_path": "Synthetic:n=40:size=40",
    "train.batch_size_per_gpu": 4,
    "train.num_workers": 0,
}
Form = tuple[bool, bool]  # (compiled, deterministic)
FORMS: tuple[Form, ...] = ((False, False), (False, True), (True, False), (True, True))


class RunFailed(Exception):
    """A training process did not end well; the text is the end of what it said."""


def run(report: SectionReport, settings: Settings) -> None:
    """All runs go at once: most of their time is starting up and compiling."""
    forms = FORMS if not settings.tiny else FORMS[:1]
    timeout = max(report.left() + 30, 30)
    with ThreadPoolExecutor(2 * len(forms)) as pool:
        wholes = {form: pool.submit(whole, settings, form, timeout) for form in forms}
        halves = {form: pool.submit(in_two, settings, form, timeout) for form in forms}
        for form in forms:
            compiled, deterministic = form
            name = f"{'compiled' if compiled else 'eager'}, {'deterministic' if deterministic else 'default'}"
            with report.item(name) as row:
                row |= compared(wholes[form], halves[form])
                # by default a GPU adds up in an order of its own; what comes of it is recorded, not judged
                row["passed"] = row["equal"] or not (deterministic or settings.tiny)


def whole(settings: Settings, form: Form, timeout: float) -> Path:
    return train(settings, form, "whole", STEPS, timeout)


def in_two(settings: Settings, form: Form, timeout: float) -> Path:
    train(settings, form, "halves", HALF, timeout)
    return train(settings, form, "halves", STEPS, timeout)


def train(settings: Settings, form: Form, name: str, until: int, timeout: float) -> Path:
    """The run folder after training to step ``until`` in a process of its own, with a compile cache of its own."""
    compiled, deterministic = form
    out = settings.scratch / f"resume-{int(compiled)}{int(deterministic)}-{name}"
    keys = KEYS | (TINY if settings.tiny else {}) | {"train.device": settings.device, "train.compile": compiled}
    keys["train.max_steps"] = until
    mode = "default"
    if deterministic:
        mode = "deterministic"
        if "deterministic" in {f.name for f in dataclasses.fields(Config().train)}:
            keys["train.deterministic"] = True
    command = [sys.executable, "-m", "benchmarks.gpu_sections.train", mode, "--output-dir", str(out)]
    # two compilers each: a dozen such runs with one a core are two hundred processes, and took minutes to start
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{out}-cache{until}", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    done = subprocess.run(
        [*command, *(f"{key}={value}" for key, value in keys.items())],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RunFailed(
            f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}".replace("\n", " | ")
        )
    return out


def compared(first: Future[Path], second: Future[Path]) -> Row:
    return difference(state_of(first.result()), state_of(second.result()))


def state_of(out: Path) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint."""
    folder = out / "ckpt" / f"step-{STEPS:08d}" / "state"
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> Row:
    """Whether two states are equal bit for bit, and if not by how much."""
    if set(one) != set(other) or not one:
        return {"equal": False, "names": sorted(set(one) ^ set(other))[:5], "tensors": len(one)}
    different = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    row: Row = {"equal": not different, "tensors": len(one), "different": len(different)}
    if different:
        floats = [name for name in different if one[name].is_floating_point()]
        gaps = {
            n: float((one[n].double() - other[n].double()).norm() / one[n].double().norm().clamp_min(1e-30))
            for n in floats
        }
        worst = max(gaps, key=lambda name: gaps[name]) if gaps else different[0]
        row |= {"worst": worst, "relative_difference": gaps.get(worst)}
    return row
