"""The teachers there are beside the EMA: a new one is a file in this folder and a line here."""

from __future__ import annotations

from dinov3.config.schema import Config
from dinov3.system.tables import read_table
from dinov3.teachers.base import Parts, Teacher

# file.Class; the order is that of their modules in a state dict.
TEACHERS = (
    "gram.GramTeacher",
    "da3.Da3Teacher",
    "frozen.AnchorTeacher",
    "frozen.FeatureTeacher",
)


def teachers(cfg: Config, parts: Parts) -> list[Teacher]:
    """Those that are on."""
    kinds: list[type[Teacher]] = read_table(__name__, TEACHERS)
    made = [kind.build(cfg, parts) for kind in kinds]
    return [teacher for teacher in made if teacher is not None]
