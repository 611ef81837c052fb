"""Hold the student's features close to those of the weights training began with."""

from __future__ import annotations

from typing import Self

from dinov3.config.schema import Config
from dinov3.engine.schedules import feature_weight_schedule
from dinov3.objectives.base import ObjectiveParts
from dinov3.objectives.feature_match import FeatureMatch


class FeatureAnchor(FeatureMatch):
    """Distillation from the own start: learning without forgetting (Li & Hoiem 2016), on tokens instead of classes."""

    state_name = "feature_anchor"

    @classmethod
    def build(cls, cfg: Config, parts: ObjectiveParts) -> Self | None:
        return cls(cfg) if cfg.feature_anchor.enabled else None

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg.feature_anchor, feature_weight_schedule(cfg, "feature_anchor"))
