"""What ``dinov3 finetune evaluate`` checks in all of these tasks."""

from __future__ import annotations

from typing import Any

from dinov3.config.errors import ConfigError
from dinov3.data.decode import USUAL, Reading
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.evaluate import Asked
from dinov3.models.backbone import Backbone


def check_asked(asked: Asked, backbone: Backbone, side: int) -> None:
    """ConfigError for an option that is for classifiers; FinetuneError for a backbone that cannot see views of ``side`` px."""
    if asked.tta:
        raise ConfigError("command line", "--tta", "is for classifiers: leave it out")
    if side % backbone.stride:
        raise FinetuneError(f"{asked.backbone}: a patch of {backbone.stride} px does not divide {side}")


def reading_of(preprocess: dict[str, Any]) -> Reading:
    """How images are read for the backbone whose file says ``preprocess``."""
    white = preprocess.get("value_range")
    return USUAL if white is None else Reading(value_range=(white[0], white[1]))
