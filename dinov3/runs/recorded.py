"""The config a run began with, as its folder has it or, when that file is damaged, its checkpoints; and the one it has now."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dinov3.config.about.in_force import changes_of, in_force
from dinov3.config.about.tasks import root_of, task_of
from dinov3.config.changes import with_defaults
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.runs.folder import CONFIG_HISTORY, CONFIG_JSON, RunFolder
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


class InForce(NamedTuple):
    """The config a run has now."""

    began: dict[str, Any] | None  # with what it began
    now: dict[str, Any] | None  # the same, unless it was changed later
    problem: str | None  # what is wrong with the files


def config_in_force(run: RunFolder) -> InForce:
    """What ``config.json`` says and, where a run went on with other keys, the newest file of ``config_history``.

    One that cannot be read leaves what it began with, and is the problem.
    """
    began, problem = read_config(run, Config)
    changes = history_of(run)
    problem = problem and f"{CONFIG_JSON}: {problem}"
    if began is None or not changes:
        return InForce(began, began, problem)
    try:
        now = in_force(began, run.path)
    except ConfigError as error:
        return InForce(began, began, f"{changes[-1].name} of {CONFIG_HISTORY} cannot be read ({error})")
    return InForce(with_defaults(began, root_of(task_of(began))), now, problem)


def history_of(run: RunFolder) -> list[Path]:
    """The configs a run went on with, the oldest first."""
    return changes_of(run.path)


def _problem_with(content: Any, root: type) -> str | None:
    """None when every block is a block."""
    if not isinstance(content, Mapping) or not content:
        return "damaged (not a table of blocks)"
    for name, block in to_dict(root()).items():
        if isinstance(block, Mapping) and not isinstance(content.get(name, {}), Mapping):
            return f"damaged ({name} is not a block)"
    return None
