"""What the tasks have in common whose model is a pretrained backbone with a head on it."""

from __future__ import annotations

import copy as copies
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from dinov3.engine.module_task import ModuleTask
from dinov3.engine.precision import Precision
from dinov3.engine.task import B

M = TypeVar("M", bound=nn.Module)


class TunedTask(ModuleTask[B], Generic[B, M]):
    """What does not train is in no checkpoint's state: it is in the backbone's file beside it. A frozen backbone with trained
    norms is in it as a whole, so that it cannot be mixed with another."""

    def __init__(
        self,
        tuned: M,
        trained: Mapping[str, nn.Module],
        precision: Precision,
        *,
        seed: int,
        pretrained: dict[str, Any] | None,
        writes: Callable[[M, int], Callable[[Path], None]],
    ) -> None:
        """``trained``: the parts of ``tuned`` in which something trains. ``pretrained``: which weights the backbone began
        with. ``writes``: of a model after so many steps, what fills a checkpoint's folder.
        """
        self.precision, self.steps_done = precision, 0
        self.tuned, self._pretrained, self._writes = tuned.to(precision.device), pretrained, writes
        super().__init__(nn.ModuleDict(dict(trained)), precision.device, seed=seed)
        tuned.train()  # after the line above, which puts the backbone into train mode

    def before_step(self, step: int) -> None:
        self.steps_done = step + 1

    def facts(self) -> dict[str, Any]:
        return {"pretrained": self._pretrained}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        """The model as it is now, with the backbone as a file of its own."""
        return self._writes(_snapshot(self.tuned) if copy else self.tuned, self.steps_done)


def _snapshot(tuned: M) -> M:
    """A copy on the CPU that training does not change."""
    with torch.no_grad():
        return copies.deepcopy(tuned).cpu()
