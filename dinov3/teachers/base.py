"""What a teacher beside the EMA is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import nn

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, TeacherView

Grid = tuple[int, int]


class Parts(NamedTuple):
    """What teachers are made with."""

    device: torch.device
    ema: nn.ModuleDict
    like_student: Callable[[], nn.ModuleDict]  # {"backbone": one of the student's architecture, without values}


class Teacher(ABC):
    """A frozen or slowly changing model and the view of a batch it wants.

    ``model``, when there is one, holds weights of the student's architecture: it is registered in SSLMetaArch under
    ``state_name``, which is DINOv3's, so it is saved, sharded and compiled with the rest. A teacher that reads weights of
    its own from a file keeps them to itself: no state dict, optimizer or EMA sees them.
    """

    name: str  # of its output, in the objectives' ``ctx.teachers``
    state_name = ""
    model: nn.ModuleDict | None = None
    embed_dim = 0  # of its tokens, when that is not the student's width

    @classmethod
    @abstractmethod
    def build(cls, cfg: Config, parts: Parts) -> Self | None:
        """The teacher of this config; None when it is off."""

    @abstractmethod
    def output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView | None:
        """What it says about the global crops on the student's ``grid`` (rows, cols); None as long as it has no weights.

        ``ema``: what the EMA teacher has said about them.
        """

    def copy_start(self, ema: nn.ModuleDict) -> None:
        """Take over the EMA as it is before step 0, for teachers that begin as its copy."""

    def load(self) -> list[str]:
        """Fill own weights from a file, strictly; returns what was loaded, to be printed."""
        return []

    def before_step(self, step: int, ema: nn.ModuleDict) -> None:
        """Change, when it is due before this step."""

    def after_step(self, step: int, ema: nn.ModuleDict) -> None:
        """Change, when it is due after this step, which was taken."""

    def prepare(self, *, compiled: bool) -> list[str]:
        """Compile weights that are kept to itself; returns what to print."""
        return []
