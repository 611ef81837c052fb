"""Where a run goes that was given no folder: ``runs/<recipe>-<date>-<n>``, and the same command finds it again."""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.runs.folder import CONFIG_JSON
from dinov3.system.json_file import JsonError, read_value

RUNS = Path("runs")


def folder_for(recipe: str, config: Mapping[str, Any], *, anew: bool) -> Path:
    """The newest folder of ``recipe`` that was begun with ``config``, unless ``anew``; else the name of a new one.

    Nothing is made. Every process of a run comes to the same answer, since none has written anything yet.
    """
    if not anew and (known := [path for path in _of(recipe) if _begun_with(path, config)]):
        return known[-1]
    day = f"{recipe}-{time.strftime('%Y-%m-%d')}"
    number = 1 + max((_number(path) for path in RUNS.glob(f"{glob.escape(day)}-*")), default=0)
    return RUNS / f"{day}-{number}"


def _of(recipe: str) -> list[Path]:
    """Oldest first."""
    found = [path for path in RUNS.glob(f"{glob.escape(recipe)}-????-??-??-*") if path.is_dir()]
    return sorted(found, key=lambda path: (path.name.rpartition("-")[0], _number(path)))


def _number(path: Path) -> int:
    last = path.name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _begun_with(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether the run, its first stage or one of its students has this config."""
    wanted = json.loads(json.dumps(config))  # as a file has it
    for path in (run / CONFIG_JSON, *sorted(run.glob(f"*/{CONFIG_JSON}"))):
        try:
            if read_value(path) == wanted:
                return True
        except (OSError, JsonError):  # absent, or damaged: then it is not known to be the same
            continue
    return False
