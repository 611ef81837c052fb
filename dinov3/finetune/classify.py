"""The kind of run ``task: classify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinov3.engine.command import Kind
from dinov3.finetune.config import CLASSIFY

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.finetune.job import FinetuneJob

    return FinetuneJob


KIND = Kind(CLASSIFY, _make)
