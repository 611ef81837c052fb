"""A task whose model is whole on every process, with the parts of the trainer's contract that are the same for all such."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from dinov3.distributed.context import rank
from dinov3.distributed.replicate import average_gradients
from dinov3.engine.model_randomness import seed_model_randomness
from dinov3.engine.optim import ParamGroup, parameter_groups
from dinov3.engine.task import B, StepLoss
from dinov3.weights.own import without_aliases


class ModuleTask(ABC, Generic[B]):
    """``trained``, by name; gradients are averaged over processes after the backward pass. Override what differs.

    What ``loss`` draws from torch's generators (dropout) is a function of ``seed``, the step and the share of the batch.
    """

    def __init__(self, trained: nn.ModuleDict, device: torch.device, *, seed: int) -> None:
        self._trained, self._device, self._seed = trained.to(device).train(), device, seed

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def model(self) -> nn.Module:
        return self._trained

    @property
    def trained(self) -> nn.ModuleDict:
        return self._trained

    def groups(self) -> list[ParamGroup]:
        return parameter_groups(self.trained, lr_decay_rate=1.0, patch_embed_lr_mult=1.0, dino_head_wd_multiplier=1.0)

    def before_step(self, step: int) -> None:
        """Nothing."""

    def gradients(self, batches: Sequence[B], step: int, now: Any) -> StepLoss:
        """The mean of ``loss`` over the batches; terms likewise."""
        totals, parts = [], []
        for part, batch in enumerate(batches):
            seed_model_randomness(self._seed, step, rank() * len(batches) + part)
            total, terms = self.loss(batch, step)
            (total / len(batches)).backward()
            totals.append(total.detach())
            parts.append(terms)
        terms = {name: torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]}
        return StepLoss(torch.stack(totals).mean(), {**terms})

    @abstractmethod
    def loss(self, batch: B, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of one batch with its graph, and figures to log."""

    def finish_backward(self) -> None:
        average_gradients(self.trained.parameters())

    def after_step(self, step: int, now: Any) -> None:
        """Nothing."""

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in without_aliases(self.model).items()}

    def facts(self) -> dict[str, Any]:
        return {}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        return lambda folder: None
