"""What a trainer trains, and what it needs to be told. Read this first.

A ``Task`` knows a model and its losses and nothing of steps, files, signals or processes that die; the ``Trainer`` knows
those and nothing of models. A new kind of training is a Task, a Stream of its batches, and a ``Kind`` that makes both
from a config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dinov3.engine.optim import ParamGroup

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)
B_co = TypeVar("B_co", covariant=True)
Row = dict[str, Any]  # a line of evaluation.jsonl


class Scheduled(Protocol):
    """What follows a schedule, at one step."""

    @property
    def lr(self) -> float: ...
    @property
    def last_layer_lr(self) -> float: ...
    @property
    def wd(self) -> float: ...

    def row(self) -> Mapping[str, float]:
        """Everything scheduled, by its name in metrics.jsonl."""


class Plan(Protocol):
    """The schedules of a run."""

    @property
    def total_steps(self) -> int: ...

    def at(self, step: int) -> Scheduled: ...

    def table(self, batch: int, until: int) -> str:
        """The schedules, for the start-up block. ``batch``: samples a step; ``until``: the step the run ends at."""


class Stream(Protocol[B_co]):
    """The batches of one process, forever."""

    @property
    def wait_seconds(self) -> float:
        """That the trainer has waited for batches, since the start."""

    def __next__(self) -> B_co: ...

    def stage_ahead(self) -> None:
        """Begin work on the next batch that does not wait for anything; called while the device is at work."""

    def names_at(self, positions: Iterable[int]) -> list[str]:
        """What the samples at these positions of the stream are called."""

    def close(self) -> None: ...


class StepLoss(NamedTuple):
    """The loss of one step, whose gradients are in the parameters."""

    total: Tensor  # scalar, detached
    terms: dict[str, Tensor | float]  # by their names in metrics.jsonl


class Task(Protocol[B_contra]):
    """One model with its losses, on this process's device, ready to train."""

    @property
    def device(self) -> torch.device: ...

    @property
    def model(self) -> nn.Module:
        """Everything with parameters that may train; the optimizer's state is stored under its names."""

    @property
    def trained(self) -> nn.ModuleDict:
        """What learns by gradient. Gradients are clipped, and their norms reported, module by module."""

    def groups(self) -> list[ParamGroup]:
        """Its parameters with their multipliers of learning rate and weight decay."""

    def before_step(self, step: int) -> None:
        """What happens before the batches of a step."""

    def gradients(self, batches: Sequence[B_contra], step: int, now: Any) -> StepLoss:
        """Losses of the batches of one step; their gradients, as of one batch of all, are in the parameters.

        Several batches are gradient accumulation. ``now``: the plan's values at the step.
        """

    def finish_backward(self) -> None:
        """Sum over processes what is not summed yet."""

    def after_step(self, step: int, now: Any) -> None:
        """What follows an update that was taken, not one that was skipped: EMA, teachers, centres."""

    def state(self) -> dict[str, Tensor]:
        """Live tensors of a checkpoint beside the optimizer's: filling them in place restores the model."""

    def facts(self) -> dict[str, Any]:
        """What else a checkpoint's train_state.json says, as JSON."""

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        """What writes the small files beside a checkpoint (the backbone, a head) into its folder, on the main process.

        Of a ``copy`` it may run while training goes on. Every process must call this.
        """


@dataclass
class Counters:
    """What a resumed run must know besides tensors. Positions are counted in samples, so they survive a new batch size."""

    step: int = 0
    samples: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    jumped_steps: int = 0  # by data.skip_steps
