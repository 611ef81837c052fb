"""What can be fine-tuned: the key ``task`` of the YAML, and the module that has its ``KIND`` (a schema and a maker of jobs).

Modules are named, not imported: a task of another room is no business of this one, and help is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.config.yaml_file import read_yaml
from dinov3.engine.command import Kind
from dinov3.runs.step_folders import step_folders

KINDS = {
    "classify": "dinov3.finetune.classify",
    "segment": "dinov3.segment.kind",
    "detect": "dinov3.detect.kind",
    "depth": "dinov3.depth.kind",
    "recover": "dinov3.compress.recovery.kind",
}
DEFAULT = "classify"
# What a run leaves, by the file that describes it: (folder in the run, room whose ``evaluate`` scores it, ``graph`` writes it).
PRODUCTS = {
    "segmenter.json": ("segmenter", "dinov3.segment"),
    "detector.json": ("detector", "dinov3.detect"),
    "estimator.json": ("estimator", "dinov3.depth"),
}
CLASSIFIER = "dinov3.finetune"
# Whose results.json it is, by its ``format``: rooms whose ``evaluate`` has the JUDGE that reads it. All others are classifiers'.
JUDGED = {
    "dinov3-segmentation-results": "dinov3.segment",
    "dinov3-detection-results": "dinov3.detect",
    "dinov3-depth-results": "dinov3.depth",
}


def room_of(path: Path) -> str:
    """The room that knows what lies at ``path``: a run, a checkpoint or a product."""
    for file, (folder, room) in PRODUCTS.items():
        places = (path, path / folder, *step_folders(path)[-1:])
        if any((place / file).is_file() for place in places):
            return room
    return CLASSIFIER


def kind_of(config: Path | None, overrides: Sequence[str]) -> Kind:
    """The kind that ``task:`` of the file, or ``task=`` among the words, names. Raises ConfigError."""
    name: object = DEFAULT if config is None else read_yaml(config).get("task", DEFAULT)
    source = str(config)
    for word in overrides:
        if word.startswith("task="):
            name, source = word.removeprefix("task="), "command line"
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigError(source, "task", f"{name!r}: choose {', '.join(KINDS)}")
    kind: Kind = import_module(KINDS[name]).KIND
    return kind
