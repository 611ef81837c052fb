"""One optimizer step: everything that changes the state is a line in ``train_step``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from dinov3.distributed.collectives import all_reduce_min
from dinov3.distributed.shard import local
from dinov3.engine.optim import apply_schedules, clip_per_submodule
from dinov3.engine.task import Scheduled, Task
from dinov3.runs.faults import Point, hit

B = TypeVar("B")


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    loss: Tensor  # scalar
    terms: dict[str, Tensor | float]  # every loss term and gradient norm, by its name in metrics.jsonl
    taken: bool  # False: skipped, nothing has changed
    stop: bool  # a process was asked to stop
    saved: bool  # a save beside training has ended on every process


def train_step(
    task: Task[B],
    optimizer: torch.optim.Optimizer,
    now: Scheduled,
    *batches: B,
    step: int,
    clip_grad: float | None,
    stop_requested: bool = False,
    save_ended: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> StepResult:
    """The batches of one step through the task.

    The update is taken on all processes or, when anything is not finite, on none. ``optimizer`` is AdamW in its fused form,
    which decides that on the device: its work is queued before the host knows. ``meanwhile`` is called when all work of
    the device is queued and the host is about to wait for it.
    """
    apply_schedules(optimizer, lr=now.lr, wd=now.wd, last_layer_lr=now.last_layer_lr)
    optimizer.zero_grad(set_to_none=True)
    task.before_step(step)
    loss, terms = task.gradients(batches, step, now)
    if hit(Point.LOSS, step):
        loss = loss * torch.nan
    task.finish_backward()
    if hit(Point.GRADIENT, step):
        local(next(p.grad for p in task.trained.parameters() if p.grad is not None)).view(-1)[:1] = torch.inf
    norms = clip_per_submodule(task.trained, clip_grad)
    verdict = agreed(loss, norms, stop_requested, save_ended)
    read = _Read(verdict)
    update(optimizer, verdict)
    meanwhile()
    finite, stop, saved = read()
    if finite:
        task.after_step(step, now)
    return StepResult(loss, terms | {f"{name}_grad_norm": norm for name, norm in norms.items()}, finite, stop, saved)


def agreed(loss: Tensor, norms: dict[str, Tensor], stop_requested: bool, save_ended: bool) -> Tensor:
    """What all processes have in common, as ``[3]`` on the device; ``_Read`` says what it means."""
    finite = torch.stack([torch.isfinite(loss), *[torch.isfinite(n) for n in norms.values()]]).all().float()
    flags = [torch.full_like(finite, -float(stop_requested)), torch.full_like(finite, float(save_ended))]
    return all_reduce_min(torch.stack([finite, *flags]))


def update(optimizer: torch.optim.Optimizer, verdict: Tensor) -> None:
    """The optimizer's step, which leaves weights, moments and step counts as they are unless ``verdict[0]`` is 1.

    ``found_inf`` is how torch's fused optimizers are told (by its GradScaler); the host need not know the answer.
    """
    optimizer.found_inf = 1 - verdict[0]  # type: ignore[attr-defined]
    optimizer.step()


class _Read:
    """A verdict on its way to the host. It leaves before the optimizer's work is queued behind it, so that the device has
    that work left while the host is told and queues what follows (AdamW has 34 groups for a ViT-B, 58 for a ViT-L).
    """

    def __init__(self, verdict: Tensor) -> None:
        self._there, self._event = verdict, None
        if verdict.device.type == "cuda":
            self._there = torch.empty(verdict.shape, dtype=verdict.dtype, pin_memory=True)
            self._there.copy_(verdict, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def __call__(self) -> tuple[bool, bool, bool]:
        """Whether loss and gradients are finite on every process, whether any process was asked to stop, and whether a
        save has ended on every one. This is the loop's one wait for the device.
        """
        if self._event is not None:
            self._event.synchronize()
        finite, stop, saved = self._there.tolist()
        return finite > 0, stop < 0, saved > 0
