"""What a loss term is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self

from torch import nn

from dinov3.config.schema import Config
from dinov3.contracts import LossTerm, StepContext


class ObjectiveParts(NamedTuple):
    """What objectives are made with."""

    embed_dim: int  # the student's width
    teacher_widths: Mapping[str, int]  # of those teachers whose tokens have a width of their own, by name


class Objective(nn.Module):
    """One loss term: its settings, the heads it needs, its formula.

    The heads live in ``SSLMetaArch.student`` and ``.model_ema`` under the names the two methods below give them;
    an objective's own state is what neither has (a centre). ``state_name`` is its attribute name in SSLMetaArch,
    hence the prefix of that state in checkpoints, and is DINOv3's.
    """

    state_name: ClassVar[str]
    joint_features: tuple[str, ...] = ()
    """Student features (``cls``, ``patches``) whose value over a whole batch is not the mean over equal parts of it.

    Under exact gradient accumulation such an objective is given these features of all parts at once, no logits, and no
    local crops. Empty: the mean over parts is exact.
    """

    reads_every_patch = True
    """False: of patch tokens only the masked ones are read, the student's and the EMA's, as ``masked_patch_*`` and targets.
    When this is said by all, ``patches`` has no tokens."""

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self | None:
        """The objective of this config; None when it is off."""
        raise NotImplementedError

    def student_modules(self) -> dict[str, nn.Module]:
        """Heads trained with the student, uninitialised."""
        return {}

    def ema_modules(self) -> dict[str, nn.Module]:
        """Heads of the EMA teacher, uninitialised; each name also stands in ``student_modules``."""
        return {}

    def weight_at(self, iteration: int) -> float:
        """Factor of this term in the total loss at a step."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Fill own buffers (they may come from the meta device)."""

    def before_step(self) -> None:
        """Called before the batches of a step."""

    def after_step(self) -> None:
        """Called once a step was taken (not when it was skipped as non-finite)."""

    def forward(self, ctx: StepContext) -> LossTerm:
        raise NotImplementedError
