"""``RUN/run_id.json``: what a run is called outside its folder, from its first turn to its last."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

from dinov3.runs.folder import RUN_ID, RunFolder
from dinov3.system.files import write_json


def known_run_id(run: RunFolder) -> str | None:
    """The id kept in the run folder; None when there is none, or it is damaged."""
    try:
        known = json.loads((run.path / RUN_ID).read_bytes())["wandb"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return known if isinstance(known, str) and known else None


def run_id(run: RunFolder, fallback: str | None = None) -> str:
    """The id kept in the run folder; ``fallback``, or a new one, is kept when there is none.

    It names the run, nothing random follows from it.
    """
    if (known := known_run_id(run)) is not None:
        return known
    fresh = fallback or secrets.token_hex(4)
    write_json(run.path / RUN_ID, {"wandb": fresh, "created": datetime.now(UTC).isoformat(timespec="seconds")})
    return fresh
