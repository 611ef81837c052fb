"""The kinds of training by the name their keys are asked for with: ``dinov3 config explain KEY --task classify``.

Schemas are named, not imported: those of other rooms are no business of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from dinov3.config.kind import Schema
from dinov3.config.names import types_of_keys

PRETRAIN = "pretrain"
SCHEMAS = {  # task -> module and name of its schema
    PRETRAIN: ("dinov3.config.pretraining", "PRETRAIN"),
    "classify": ("dinov3.finetune.config", "CLASSIFY"),
    "segment": ("dinov3.segment.config", "SEGMENT"),
    "detect": ("dinov3.detect.config", "DETECT"),
    "depth": ("dinov3.depth.config", "DEPTH"),
    "recover": ("dinov3.compress.recovery.config", "RECOVER"),
    "dit": ("dinov3.config.dit", "DIT"),
}
COMMANDS = {  # task -> what reads its YAML
    PRETRAIN: "dinov3 train",
    **dict.fromkeys(("classify", "segment", "detect", "depth", "recover"), "dinov3 finetune"),
    "dit": "dinov3 dit train",
}


def schema_of(task: str) -> Schema[Any]:
    """All keys of a task, with their checks."""
    module, name = SCHEMAS[task]
    schema: Schema[Any] = getattr(import_module(module), name)
    return schema


def root_of(task: str) -> type[Any]:
    """The dataclass of all blocks of a task's YAML."""
    return schema_of(task).root


def tasks_with(key: str) -> list[str]:
    """The tasks that have this key or block."""
    return [task for task in SCHEMAS if key in types_of_keys(root_of(task))]


def task_of(tree: Mapping[str, Any]) -> str:
    """The task that a config is of: the one it names, else the first with most of its blocks."""
    named = tree.get("task")
    if isinstance(named, str) and named in SCHEMAS:
        return named
    return max(SCHEMAS, key=lambda task: len(set(tree) & {field.name for field in fields(root_of(task))}))
