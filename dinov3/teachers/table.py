"""The teachers there are beside the EMA: a new one is a file in this folder and its class here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dinov3.config.schema import Config
from dinov3.teachers.base import Parts, Teacher
from dinov3.teachers.frozen import AnchorTeacher, FeatureTeacher
from dinov3.teachers.gram import GramTeacher


def _da3(cfg: Config, parts: Parts) -> Teacher | None:
    """Nothing of Depth Anything 3 is imported while it is off."""
    if not cfg.da3.enabled:
        return None
    from dinov3.teachers.da3 import Da3Teacher

    return Da3Teacher.build(cfg, parts)


# Each makes its teacher when the config switches it on.
TEACHERS: tuple[Callable[[Config, Parts], Teacher | None], ...] = (
    GramTeacher.build,
    _da3,
    AnchorTeacher.build,
    FeatureTeacher.build,
)


def teachers(cfg: Config, parts: Parts) -> Iterator[Teacher]:
    """Those that are on, in the order of the table."""
    for build in TEACHERS:
        if (teacher := build(cfg, parts)) is not None:
            yield teacher
