"""The kind of run ``task: recover``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinov3.compress.recovery.config import RECOVER
from dinov3.engine.command import Kind

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.compress.recovery.job import RecoveryJob

    return RecoveryJob


KIND = Kind(RECOVER, _make)
