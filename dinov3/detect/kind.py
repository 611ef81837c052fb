"""The kind of run ``task: detect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinov3.detect.config import DETECT
from dinov3.engine.command import Kind

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.detect.job import DetectJob

    return DetectJob


KIND = Kind(DETECT, _make)
