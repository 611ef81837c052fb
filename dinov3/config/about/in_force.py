"""The config a run has now: the newest it went on with, else the one it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.config.about.tasks import schema_of, task_of
from dinov3.config.changes import with_defaults
from dinov3.config.dump import to_dict
from dinov3.config.load import load_config

BEGAN, CHANGES = "config.json", "config_history"  # in a run folder; runs/folder.py has them for all above this room


def changes_of(folder: Path) -> list[Path]:
    """The configs a run went on with, the oldest first."""
    return sorted((folder / CHANGES).glob("[0-9]*.yaml"))


def in_force(began: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """All keys of what the run in ``folder`` has now; ``began``: with what it began.

    Raises ConfigError when the newest file of its history cannot be read.
    """
    schema = schema_of(task_of(began))
    if not (changes := changes_of(folder)):
        return with_defaults(began, schema.root)
    as_it_is = schema._replace(checks=(), remarks=lambda cfg, origin: iter(()))  # it was checked when it was written
    return to_dict(load_config(changes[-1], (), as_it_is))
