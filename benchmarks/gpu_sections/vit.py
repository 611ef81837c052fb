"""Section D: a ViT of depth 4, forward and gradient, in fp32 and bf16, eager and compiled, and on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_sections.losses import relative
from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import NotHere, Row, SectionReport, device_of
from benchmarks.measure import Compilations, cost_of
from dinov3.models.backbone import Backbone
from dinov3.models.build import vit_base, vit_small

TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative L2 of features and of all gradients together
ROTATED = 2e-3  # in fp32 with a rotation in bf16, which compiled code rounds once and the plain operators three times


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    crops = inputs(settings, device)
    expected: dict[str, Tensor] = {}
    with report.item("fp32, eager") as row:
        expected |= outputs(model_on(settings, device), crops, "fp32", compiled=False)
        row["finite"] = row["passed"] = all(bool(torch.isfinite(t).all()) for t in expected.values())
    with report.item("fp32, eager, against the CPU") as row:
        if device.type == "cpu":
            raise NotHere("this is the CPU")
        cpu = torch.device("cpu")
        row |= errors(
            outputs(model_on(settings, cpu), [few.to(cpu) for few in first(crops)], "fp32", compiled=False),
            outputs(model_on(settings, device), first(crops), "fp32", compiled=False),
            "fp32",
        )
    with report.item("fp32, compiled, rotation in bf16") as row:
        eager, compiled_model = (model_on(settings, device, rope="bf16") for _ in range(2))
        row |= errors(
            outputs(compiled_model, crops, "fp32", compiled=True), outputs(eager, crops, "fp32", compiled=False), "fp32"
        )
        row |= {"tolerance": ROTATED, "passed": max(row["errors"].values()) <= ROTATED}
    for precision, compiled in (("fp32", True), ("bf16", False), ("bf16", True)):
        with report.item(f"{precision}, {'compiled' if compiled else 'eager'}") as row:
            if not expected:
                raise NotHere("the fp32 numbers to compare with are missing")
            compilations = Compilations()
            model = model_on(settings, device)
            row |= errors(outputs(model, crops, precision, compiled=compiled), expected, precision)
            # compiled with fullgraph: a graph break is an error; drop path is 0
            row["compiled"] = compilations.figures()
            compilations.close()
            with autocast(device, precision):
                cost = cost_of(lambda: forward_backward(model, crops), device, repeats=1 if settings.tiny else 5)  # noqa: B023
            row |= cost.row()


def inputs(settings: Settings, device: torch.device) -> list[Tensor]:
    """Global crops, local crops and the masks of the global ones."""
    n, large, small = (2, 32, 16) if settings.tiny else (32, 256, 112)
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(n, (large // 16) ** 2, generator=g) < 0.3
    crops = [torch.randn(n, 3, large, large, generator=g), torch.randn(2 * n, 3, small, small, generator=g)]
    return [t.to(device) for t in (*crops, masks)]


def first(crops: list[Tensor]) -> list[Tensor]:
    """Two images of each: a CPU needs seconds for more."""
    return [t[:2] for t in crops]


def model_on(settings: Settings, device: torch.device, rope: str = "fp32") -> Backbone:
    """The same weights on every device; the tables and the rotation of queries and keys are in ``rope``."""
    make: Any = vit_small if settings.tiny else vit_base
    dims = {"embed_dim": 64, "num_heads": 2} if settings.tiny else {}
    model: Backbone = make(
        device="cpu", depth=2 if settings.tiny else 4, n_storage_tokens=4, pos_embed_rope_dtype=rope, **dims
    )
    model.init_weights(torch.Generator().manual_seed(0))  # type: ignore[operator]
    return model.to(device).train()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def outputs(model: Backbone, crops: list[Tensor], precision: str, *, compiled: bool) -> dict[str, Tensor]:
    """Features by name and all gradients as one vector."""
    if compiled:
        backend = "inductor" if crops[0].device.type == "cuda" else "aot_eager"
        model.forward = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[method-assign]
    with autocast(crops[0].device, precision):
        found = forward_backward(model, crops)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return {**found, "gradient": gradient}


def forward_backward(model: Backbone, crops: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    features = model([crops[0], crops[1]], [crops[2], None], is_training=True)
    found = {
        f"{name} {part}": getattr(f, part)
        for name, f in zip(("global", "local"), features, strict=True)
        for part in ("cls", "patches")
    }
    # a cotangent of its own for every number, so that no gradient cancels
    torch.stack(
        [(t.float() * torch.linspace(-1, 1, t.numel(), device=t.device).view(t.shape)).mean() for t in found.values()]
    ).sum().backward()
    return {name: t.detach().float() for name, t in found.items()}


def errors(found: dict[str, Tensor], expected: dict[str, Tensor], precision: str) -> Row:
    each = {name: relative(t.cpu(), expected[name].cpu()) for name, t in found.items()}
    return {"errors": each, "tolerance": TOLERANCE[precision], "passed": max(each.values()) <= TOLERANCE[precision]}
