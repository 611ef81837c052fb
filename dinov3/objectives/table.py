"""The loss terms there are: a new one is a file in this folder and its class here."""

from __future__ import annotations

from dinov3.config.schema import Config
from dinov3.objectives.base import Objective, ObjectiveParts
from dinov3.objectives.da3 import Da3
from dinov3.objectives.dino import Dino
from dinov3.objectives.feature_anchor import FeatureAnchor
from dinov3.objectives.feature_distillation import FeatureDistillation
from dinov3.objectives.gram import Gram
from dinov3.objectives.ibot import Ibot
from dinov3.objectives.koleo import Koleo

# In the order in which they are added up and logged.
OBJECTIVES: tuple[type[Objective], ...] = (Dino, Koleo, Ibot, Gram, Da3, FeatureAnchor, FeatureDistillation)


def objectives(cfg: Config, parts: ObjectiveParts) -> list[Objective]:
    """Those that are on."""
    made = [kind.build(cfg, parts) for kind in OBJECTIVES]
    return [objective for objective in made if objective is not None]
