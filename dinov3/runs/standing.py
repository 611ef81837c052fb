"""Whether a run trains, has finished or was stopped, and at which step of how many; nothing in its folder is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dinov3.runs.lock import RunLock, RunLocked
from dinov3.runs.manifest import STATE
from dinov3.runs.step_folders import own_step_folders
from dinov3.system.json_file import JsonError, Maybe, read_object
from dinov3.system.rows import Row, is_number


class Standing(NamedTuple):
    """Where a run is."""

    state: str  # trains | finished | stopped | begun
    step: int
    steps: int | None  # it is to train


def standing(path: Path, last: Row, config: Mapping[str, Any]) -> Standing:
    """Of the run in ``path``; ``last``: its newest row of metrics.jsonl, empty when there is none."""
    saved = own_step_folders(path)
    steps = _asked_for(saved) or _steps_of(config)
    logged = last.get("iteration")
    step = max(int(logged) + 1 if is_number(logged) else 0, *(int(p.name.rpartition("-")[2]) for p in saved), 0)
    return Standing(_state(path, step, steps), step, steps)


def _state(path: Path, step: int, steps: int | None) -> str:
    try:
        RunLock(path).refuse_if_held()
    except RunLocked:
        return "trains"
    except OSError:  # a lock that is no file: nobody can train here, and the other runs are still to be listed
        pass
    if steps is not None and step >= steps:
        return "finished"
    return "stopped" if step else "begun"


def _asked_for(saved: list[Path]) -> int | None:
    """How many steps the run is to train, as its newest checkpoint says: an epoch of many kinds is known with the data."""
    for folder in reversed(saved):
        try:
            return read_object(folder / STATE, {"until": Maybe(int)}).get("until")
        except (OSError, JsonError):
            continue  # being written, or damaged: the one before it knows as well
    return None


def _steps_of(config: Mapping[str, Any]) -> int | None:
    """How many steps a config asks for; None when it does not say."""
    train, optim = (config.get(name) or {} for name in ("train", "optim"))
    epochs, length, most = optim.get("epochs"), train.get("OFFICIAL_EPOCH_LENGTH"), train.get("max_steps")
    if not is_number(epochs) or not is_number(length):
        return None
    return min(int(epochs * length), int(most)) if is_number(most) and most else int(epochs * length)
