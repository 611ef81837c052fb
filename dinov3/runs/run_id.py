"""``RUN/run_id.json``: what a run is called outside its folder, from its first turn to its last."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from dinov3.runs.folder import RUN_ID, RunFolder
from dinov3.system.files import write_json
from dinov3.system.json_file import JsonError, read_object


def known_run_id(run: RunFolder) -> str | None:
    """The id kept in the run folder; None when there is none, or it is damaged."""
    try:
        known: str = read_object(run.path / RUN_ID, {"wandb": str})["wandb"]
    except (OSError, JsonError):
        return None
    return known or None


def run_id(run: RunFolder, fallback: str | None = None) -> str:
    """The id kept in the run folder; ``fallback``, or a new one, is kept when there is none.

    It names the run, nothing random follows from it.
    """
    if (known := known_run_id(run)) is not None:
        return known
    fresh = fallback or secrets.token_hex(4)
    write_json(run.path / RUN_ID, {"wandb": fresh, "created": datetime.now(UTC).isoformat(timespec="seconds")})
    return fresh
