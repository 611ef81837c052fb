"""The kind of run ``task: depth``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinov3.depth.config import DEPTH
from dinov3.engine.command import Kind

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.depth.job import DepthJob

    return DepthJob


KIND = Kind(DEPTH, _make)
