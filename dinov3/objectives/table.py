"""The loss terms there are: a new one is a file in this folder and a line here."""

from __future__ import annotations

from dinov3.config.schema import Config
from dinov3.objectives.base import Objective, ObjectiveParts
from dinov3.system.tables import read_table

# file.Class, in the order in which they are added up and logged.
OBJECTIVES = (
    "dino.Dino",
    "koleo.Koleo",
    "ibot.Ibot",
    "gram.Gram",
    "da3.Da3",
    "feature_anchor.FeatureAnchor",
    "feature_distillation.FeatureDistillation",
)


def objectives(cfg: Config, parts: ObjectiveParts) -> list[Objective]:
    """Those that are on."""
    kinds: list[type[Objective]] = read_table(__name__, OBJECTIVES)
    made = [kind.build(cfg, parts) for kind in kinds]
    return [objective for objective in made if objective is not None]
