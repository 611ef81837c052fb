"""The checkpoints of a run as folders: which there are, and which is the newest whole one. Without torch: a table of runs is
there at once."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from dinov3.runs import manifest
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import problem_with
from dinov3.runs.run_id import known_run_id
from dinov3.system.errors import EXIT_IO, Foreseeable
from dinov3.system.json_file import JsonError, Maybe, read_object

log = logging.getLogger(__name__)
STEP = re.compile(r"^step-(\d{8})$")
START_AGAIN = "--no-resume moves them aside and starts again"
SHOWN = 3  # damaged checkpoints in a message


class CheckpointError(Foreseeable):
    """A checkpoint cannot be written or read; the message names the file and says what to do."""

    code = EXIT_IO


def step_folders(run: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first, not yet verified."""
    folder = run / "ckpt"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and STEP.match(p.name))


def step_of(folder: Path) -> int:
    """Steps done when this checkpoint was written."""
    match = STEP.match(folder.name)
    assert match
    return int(match.group(1))


def newest_valid(run: Path, *, at_most: int | None = None, advice: str = START_AGAIN) -> Path | None:
    """The newest checkpoint that verifies, of no step after ``at_most``; damaged ones and those of another run are passed
    over with a warning each.

    Raises CheckpointError, with ``advice``, when there are checkpoints and none verifies: never a silent restart from
    nothing.
    """
    folders = [folder for folder in step_folders(run) if at_most is None or step_of(folder) <= at_most]
    own = known_run_id(RunFolder(run))
    problems: dict[Path, str] = {}
    for folder in reversed(folders):
        problem = problem_with(folder) or _stranger(folder, own)
        if problem is None:
            for damaged, why in problems.items():
                log.warning("checkpoint %s is passed over: %s", damaged, why)
            return folder
        problems[folder] = problem
    if not problems:
        return None
    shown = [f"{damaged.name}: {why}" for damaged, why in problems.items()][:SHOWN]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    raise CheckpointError(f"{run / 'ckpt'}: no checkpoint can be read ({'; '.join(shown + more)}): {advice}")


def own_step_folders(run: Path) -> list[Path]:
    """``step_folders`` without those that another run has written; one that cannot be read may be this run's."""
    own = known_run_id(RunFolder(run))
    return [folder for folder in step_folders(run) if _stranger(folder, own) is None]


def _stranger(folder: Path, run_id: str | None) -> str | None:
    """What is wrong with a checkpoint that another run has written; None when it is this run's, or does not say."""
    if run_id is None:
        return None
    try:
        own = read_object(folder / manifest.STATE, {"run": Maybe(str)}).get("run")
    except (OSError, JsonError):
        return None
    return f"it was written by another run ({own}, this one is {run_id})" if own not in (None, run_id) else None
