"""Section H: the parts of a ViT-B step by themselves, at its sizes: where the milliseconds are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_sections.losses import logits, passes_of
from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import NotHere, SectionReport, device_of
from benchmarks.gpu_sections.speed import recipe_of
from benchmarks.measure import Compilations, cost_of, profile_steps
from benchmarks.synthetic_step import Recipe, SyntheticStep
from dinov3.config.schema import Config
from dinov3.data.feed import BatchRenderer
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources import open_dataset
from dinov3.losses.cross_entropy import ibot_cross_entropy
from dinov3.losses.sinkhorn import sinkhorn_targets
from dinov3.models.packing import Kept

MASKED = 9831  # patches of a batch of 128
TEACHER_TEMP = 0.07
SMALL_BATCH = 16  # of the model here: optimizer, EMA and the gap do not depend on it


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    recipe = recipe_of("G", settings, device)
    losses(report, settings, device)
    with report.item("drop path: the draws of a step") as row:
        depth, sizes = 12, ((2 * recipe.batch, 261), (recipe.locals * recipe.batch, 54))
        row |= cost_of(lambda: [Kept(sizes, 0.1, device) for _ in range(2 * depth)], device, repeats=5).row()
    with report.item("photometrics of a batch") as row:
        row["images"] = recipe.batch
        row |= cost_of(photometrics(recipe, device), device, repeats=1 if settings.tiny else 5).row()
    model(report, settings, replace(recipe, batch=min(recipe.batch, SMALL_BATCH), compile=False), device)


def losses(report: SectionReport, settings: Settings, device: torch.device) -> None:
    """Sinkhorn-Knopp and cross entropy over the masked patches, as they are by default and compiled."""
    masked, prototypes = (7, 96) if settings.tiny else (MASKED, 65536)
    dtype = torch.bfloat16
    teacher, student = (logits(device, dtype, masked, prototypes, seed=seed) for seed in (0, 1))
    weight = torch.ones(masked, device=device)
    repeats = 1 if settings.tiny else 5
    for form in ("fused", "compiled"):
        compilations = Compilations()
        with report.item(f"Sinkhorn-Knopp, {form}") as row:
            passes = passes_of(form, device)
            row |= cost_of(lambda: sinkhorn_targets(teacher, TEACHER_TEMP, **passes), device, repeats=repeats).row()  # noqa: B023
            row["compiled"] = compilations.figures()
        with report.item(f"cross entropy, forward, {form}") as row:
            forward = cross_entropy(student, teacher, weight, passes_of(form, device))
            with torch.no_grad():
                row |= cost_of(forward, device, repeats=repeats).row()
        with report.item(f"cross entropy, forward and backward, {form}") as row:
            forward = cross_entropy(student.requires_grad_(), teacher, weight, passes_of(form, device))
            row |= cost_of(lambda: torch.autograd.grad(forward(), student), device, repeats=repeats).row()  # noqa: B023
            row["compiled"] = compilations.figures()
        compilations.close()


def cross_entropy(student: Tensor, teacher: Tensor, weight: Tensor, passes: dict[str, Any]) -> Callable[[], Tensor]:
    targets = sinkhorn_targets(teacher, TEACHER_TEMP, **passes)
    return lambda: ibot_cross_entropy(student, targets, weight, 256, **passes)


def photometrics(recipe: Recipe, device: torch.device) -> Callable[[], object]:
    """Rendering one batch that lies on the device as uint8."""
    cfg: Config = recipe.config()
    source = open_dataset("Synthetic:n=64:size=96")
    writer = SampleWriter.from_config(cfg, source, 0, 1)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)
    writer.fill(slot, 0, 0, recipe.batch)
    crops = slot[: writer.resolution_at(0).layout.crop_bytes].to(device)
    renderer = BatchRenderer(cfg, writer, device, torch.float32)
    return lambda: renderer(slot, crops, 0)


def model(report: SectionReport, settings: Settings, recipe: Recipe, device: torch.device) -> None:
    """AdamW, EMA and the gap behind the step's wait."""
    step: SyntheticStep | None = None
    with report.item("a step of the whole model, eager, small batch") as row:
        step = SyntheticStep(recipe, device)
        row |= {"arch": recipe.arch, "batch": recipe.batch}
        step(0)  # so that there are gradients
    if step is None:
        return
    repeats = 1 if settings.tiny else 10
    with report.item("AdamW") as row:
        row |= cost_of(step.optimizer_step, device, repeats=repeats).row()
    with report.item("EMA") as row:
        row |= cost_of(step.ema_step, device, repeats=repeats).row()
    with report.item("the gap behind the wait") as row:
        if device.type != "cuda":
            raise NotHere("a CPU does not wait for itself")
        profile = profile_steps(step, 1, 3, device)
        row |= {k: v for k, v in profile.items() if k != "top"}
