"""`dinov3 config diff A B`: what two configs do differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dinov3.config.changes import changed_keys, with_defaults
from dinov3.config.convert import as_text
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.system.columns import aligned
from dinov3.system.json_file import JsonError, read_object
from dinov3.system.paths import expanded

RECORDED = "config.json"  # of a run folder


def difference(a: str, b: str) -> str:
    """A line a key whose value differs, with both values; defaults count. Each is a YAML, a recipe or a run folder.

    Raises ConfigError for what cannot be read.
    """
    found = changed_keys(resolved(a), resolved(b))
    if not found:
        return "no difference\n"
    return aligned([("", a, b), *((key, as_text(old), as_text(new)) for key, (old, new) in found.items())]) + "\n"


def resolved(text: str) -> dict[str, Any]:
    """All keys of a config, as nested dicts without secrets."""
    path = expanded(text)
    if (path / RECORDED).is_file():
        return with_defaults(_recorded(path / RECORDED), Config)
    if path.is_dir():
        raise ConfigError(text, "", f"holds no {RECORDED}: give a run folder, a YAML or the name of a recipe")
    return to_dict(load_config(config_file(text)))


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, JsonError) as error:
        raise ConfigError(str(path), "", f"is not the config of a run: {error}") from error
