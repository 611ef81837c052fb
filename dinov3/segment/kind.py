"""The kind of run ``task: segment``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinov3.engine.command import Kind
from dinov3.segment.config import SEGMENT

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.segment.job import SegmentJob

    return SegmentJob


KIND = Kind(SEGMENT, _make)
