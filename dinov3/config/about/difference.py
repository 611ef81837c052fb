"""`dinov3 config diff A B`: what two configs do differently."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from dinov3.config.about.in_force import BEGAN, in_force
from dinov3.config.about.tasks import root_of, schema_of, task_of
from dinov3.config.changes import changed_keys
from dinov3.config.convert import as_text
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.yaml_file import read_yaml
from dinov3.system.columns import aligned
from dinov3.system.json_file import JsonError, read_object
from dinov3.system.paths import expanded


def difference(a: str, b: str) -> str:
    """A line a key whose value differs, with both values; defaults count. Each is a YAML, a recipe or a run folder,
    whose config is the one in force, after what was changed when the run went on.

    Raises ConfigError for what cannot be read, and for two of different tasks.
    """
    (task, first), (other, second) = resolved(a), resolved(b)
    if task != other:
        raise ConfigError(b, "", f"is of {other}, {a} of {task}: they have different keys")
    found = changed_keys(first, second)
    if not found:
        return "no difference\n"
    return aligned([("", a, b), *((key, as_text(old), as_text(new)) for key, (old, new) in found.items())]) + "\n"


def resolved(text: str) -> tuple[str, dict[str, Any]]:
    """The task of a config, and all its keys as nested dicts without secrets."""
    path = expanded(text)
    if (path / BEGAN).is_file():
        content = _recorded(path / BEGAN)
        task = task_of(content)
        root = root_of(task)
        if content and content.keys().isdisjoint(field.name for field in fields(root)):
            # of a checkpoint, or of a model for another program: beside it every key would seem to have its default
            raise ConfigError(text, "", f"{BEGAN} in it describes a model: give the folder of the run")
        return task, in_force(content, path)
    if path.is_dir():
        raise ConfigError(text, "", f"holds no {BEGAN}: give a run folder, a YAML or the name of a recipe")
    file = config_file(text)
    task = task_of(read_yaml(file))
    as_it_is = schema_of(task)._replace(checks=())  # a recipe that still lacks its data can be compared all the same
    return task, to_dict(load_config(file, [], as_it_is))


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, JsonError) as error:
        raise ConfigError(str(path), "", f"is not the config of a run: {error}") from error
