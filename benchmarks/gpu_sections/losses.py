"""Section C: the prototype losses in their forms, forward and gradient: from the definition, fused, fused and compiled."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import NotHere, Row, SectionReport, device_of
from benchmarks.measure import Compilations, wait_for
from dinov3.losses.cross_entropy import (
    dino_cross_entropy,
    dino_cross_entropy_plain,
    ibot_cross_entropy,
    ibot_cross_entropy_plain,
)
from dinov3.losses.sinkhorn import sinkhorn_knopp, sinkhorn_targets

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative L2
TEACHER_TEMP = 0.07
Form = Callable[[Tensor], Tensor]  # student logits to a loss


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    prototypes = 96 if settings.tiny else 65536
    row_counts = (7, 1, 0) if settings.tiny else (4097, 1024, 1, 0)
    for dtype in TOLERANCE:
        for form in ("fused", "compiled"):
            for rows in row_counts:
                with report.item(f"iBOT, {form}, {name_of(dtype)}, M = {rows}") as row:
                    row |= agreement(ibot_forms(device, dtype, rows, prototypes, passes_of(form, device)), dtype)
            with report.item(f"DINO, {form}, {name_of(dtype)}") as row:
                images = 3 if settings.tiny else 33
                row |= agreement(dino_forms(device, dtype, images, prototypes, passes_of(form, device)), dtype)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def passes_of(form: str, device: torch.device) -> dict[str, Any]:
    """The keyword arguments that ask the losses for a form."""
    if form == "fused":
        return {}
    try:
        passes = import_module("dinov3.losses.passes")
    except ImportError as error:
        raise NotHere("the losses have no compiled form: dinov3.losses.passes is not there") from error
    # on a CPU only the graph is asked for: code for it takes the compiler a minute
    return {"passes": passes.compiled("inductor" if device.type == "cuda" else "eager")}


def logits(device: torch.device, dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).mul_(0.3).to(dtype)


def ibot_forms(
    device: torch.device, dtype: torch.dtype, rows: int, prototypes: int, passes: dict[str, Any]
) -> tuple[Tensor, Form, Form]:
    """(student logits, the definition, the form in question), both as functions of the student's logits."""
    student, teacher = (logits(device, dtype, rows, prototypes, seed=seed) for seed in (0, 1))
    weight = torch.rand(rows, generator=torch.Generator(device).manual_seed(2), device=device)
    images = max(rows // 38, 1)

    def plain(x: Tensor) -> Tensor:
        dense = sinkhorn_knopp(teacher, TEACHER_TEMP)
        return ibot_cross_entropy_plain(x, dense, weight, images)

    def fused(x: Tensor) -> Tensor:
        targets = sinkhorn_targets(teacher, TEACHER_TEMP, **passes)
        return ibot_cross_entropy(x, targets, weight, images, **passes)

    return student, plain, fused


def dino_forms(
    device: torch.device, dtype: torch.dtype, images: int, prototypes: int, passes: dict[str, Any]
) -> tuple[Tensor, Form, Form]:
    student = logits(device, dtype, 10, images, prototypes, seed=3)
    teacher = logits(device, dtype, 2, images, prototypes, seed=4)

    def plain(x: Tensor) -> Tensor:
        dense = sinkhorn_knopp(teacher.flatten(0, 1), TEACHER_TEMP).view(teacher.shape)
        return dino_cross_entropy_plain(x, dense)

    def fused(x: Tensor) -> Tensor:
        targets = sinkhorn_targets(teacher, TEACHER_TEMP, **passes)
        return dino_cross_entropy(x, targets, **passes)

    return student, plain, fused


def agreement(forms: tuple[Tensor, Form, Form], dtype: torch.dtype) -> Row:
    """Relative differences of loss and gradient, and how often something was compiled."""
    student, plain, form = forms
    compilations = Compilations()
    expected, expected_grad = with_gradient(plain, student)
    value, grad = with_gradient(form, student)
    errors = {"loss": relative(value, expected), "gradient": relative(grad, expected_grad)}
    compilations.close()
    return {
        **errors,
        "tolerance": TOLERANCE[dtype],
        "passed": all(error <= TOLERANCE[dtype] for error in errors.values()),
        "compiled": compilations.figures(),
    }


def with_gradient(loss: Form, student: Tensor) -> tuple[Tensor, Tensor]:
    x = student.clone().requires_grad_()
    value = loss(x)
    value.backward()
    assert x.grad is not None
    wait_for(student.device)
    return value.detach(), x.grad


def relative(value: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; of two zeros 0; nan counts as infinite."""
    a, b = value.double(), expected.double()
    error = float((a - b).norm() / b.norm().clamp_min(1e-30))
    return error if error == error else float("inf")
