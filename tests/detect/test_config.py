"""Every key of a detection run has a reader, and what contradicts is named."""

from __future__ import annotations

import ast
from pathlib import Path

from dinov3.detect.config import AnswerConfig, DetectConfig, DetectLoopConfig, DetectorConfig, ViewConfig
from dinov3.finetune.kinds import kind_of

ROOT = Path(__file__).resolve().parents[2] / "dinov3" / "detect"
BLOCKS = (DetectorConfig, DetectLoopConfig, ViewConfig, AnswerConfig)


def test_every_key_of_its_own_is_read_in_this_room() -> None:
    nodes = (node for path in ROOT.glob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert {name for block in BLOCKS for name in vars(block)["__annotations__"]} - names == set()


def test_task_detect_is_this_schema() -> None:
    assert kind_of(None, ["task=detect"]).schema.root is DetectConfig
