"""The cost of a deep model from two shallow ones: blocks are alike, so whatever is counted grows by the same for each.

A step of a ViT-7B is 20,000 operators; two shallow ones are a quarter of that.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import torch

from dinov3.config.archs import VIT_ARCHS
from dinov3.config.schema import Config
from dinov3.plan.counting import Sent
from dinov3.plan.ghost import Choice, choice
from dinov3.plan.step import StepCost, count_step, gradient_sums

SHALLOW, LESS_SHALLOW = 3, 5  # blocks; the first and the last of a model are not like the others


def cost_of_step(cfg: Config, *, dtype: torch.dtype, processes: int = 1, per_machine: int = 8) -> StepCost:
    """As ``count_step``. A vision transformer of more than ``LESS_SHALLOW`` blocks is extended from two shallow ones."""
    settings: dict[str, Any] = {"dtype": dtype, "processes": processes, "per_machine": per_machine}
    depth = depth_of(cfg)
    if depth is None or depth <= LESS_SHALLOW or cfg.student.freeze_blocks:
        return count_step(cfg, **settings)
    whole = choice(cfg, **settings)
    shallow = with_keys(cfg, "compute_precision", sharding_strategy=whole.parallel.strategy)
    low, high = (count_step(with_keys(shallow, "student", depth=n), **settings) for n in (SHALLOW, LESS_SHALLOW))
    return extended(low, high, depth, whole, processes)


def depth_of(cfg: Config) -> int | None:
    """Blocks of the student; None for a ConvNeXt, whose stages differ."""
    arch = VIT_ARCHS.get(cfg.student.arch)
    return None if arch is None else cfg.student.depth or int(arch["depth"])


def with_keys(cfg: Config, block: str, **changes: Any) -> Config:
    """A copy of ``cfg`` with other values in one block."""
    return dataclasses.replace(cfg, **{block: dataclasses.replace(getattr(cfg, block), **changes)})


def extended(low: StepCost, high: StepCost, depth: int, whole: Choice, processes: int) -> StepCost:
    """What ``depth`` blocks cost if each further one costs what those of ``high`` cost beyond ``low``."""

    def further(a: int, b: int) -> int:
        return max(0, a + (b - a) * (depth - SHALLOW) // (LESS_SHALLOW - SHALLOW))

    def table(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        return {kind: further(a.get(kind, 0), b.get(kind, 0)) for kind in {**a, **b}}

    a, b = (Counter(cost.sent) for cost in (low, high))
    a.subtract(low.gradient_sums)
    b.subtract(high.gradient_sums)
    sent: Counter[Sent] = Counter({kind: further(a[kind], b[kind]) for kind in {*a, *b}})
    sums = gradient_sums(whole.trained, whole.parallel, processes)
    return StepCost(
        strategy=whole.parallel.strategy,
        reason=whole.parallel.reason,
        parameters=sum(p.numel() for p in whole.trained if p.requires_grad),
        flops=further(low.flops, high.flops),
        peak=table(low.peak, high.peak),
        whole=table(low.whole, high.whole),
        sent=+(sent + sums),
        gradient_sums=sums,
        launches=further(low.launches, high.launches),
    )
