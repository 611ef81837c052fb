"""The config a run began with, as its folder has it or, when that file is damaged, its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.config.dump import to_dict
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import read_train_state
from dinov3.system.json_file import JsonError, read_value

log = logging.getLogger(__name__)


def recorded_config(run: RunFolder, root: type, newest: Path | None = None) -> dict[str, Any] | None:
    """What the run began with; None when nobody wrote it down. ``newest``: a verified checkpoint of it.

    A damaged ``config.json`` is said, and the checkpoint's copy taken in its place.
    """
    content, problem = read_config(run, root)
    if content is not None or problem is None:
        return content
    copy = read_train_state(newest).get("config") if newest is not None else None
    if copy is not None and _problem_with(copy, root) is None:
        log.warning("%s: %s; the copy in %s is taken", run.config_json, problem, newest)
        return dict(copy)
    log.warning("%s: %s; what has changed since the start cannot be told", run.config_json, problem)
    return None


def read_config(run: RunFolder, root: type) -> tuple[dict[str, Any] | None, str | None]:
    """The content of ``config.json``, and what is wrong with it; neither when there is none."""
    try:
        content = read_value(run.config_json)
    except FileNotFoundError:
        return None, None
    except (OSError, JsonError) as error:
        return None, f"damaged ({error})"
    problem = _problem_with(content, root)
    return (None, problem) if problem else (content, None)


def _problem_with(content: Any, root: type) -> str | None:
    """None when every block is a block."""
    if not isinstance(content, Mapping) or not content:
        return "damaged (not a table of blocks)"
    for name, block in to_dict(root()).items():
        if isinstance(block, Mapping) and not isinstance(content.get(name, {}), Mapping):
            return f"damaged ({name} is not a block)"
    return None
