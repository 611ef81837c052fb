"""What contradicts in a detection run is named."""

from __future__ import annotations

from dinov3.detect.config import DetectConfig
from dinov3.finetune.kinds import kind_of


def test_task_detect_is_this_schema() -> None:
    assert kind_of(None, ["task=detect"]).schema.root is DetectConfig
