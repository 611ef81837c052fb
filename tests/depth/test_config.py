"""What contradicts in a depth run is named."""

from __future__ import annotations

from dinov3.depth.config import DepthConfig
from dinov3.finetune.kinds import kind_of


def test_task_depth_is_this_schema() -> None:
    assert kind_of(None, ["task=depth"]).schema.root is DepthConfig
