"""``RUN/run_id.json``: what a run is called outside its folder, from its first turn to its last."""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path


def run_id(out: Path) -> str:
    """The id kept in the run folder; made and kept when there is none. It names the run, nothing random follows from it."""
    path = out / "run_id.json"
    if path.exists():
        known: str = json.loads(path.read_text())["wandb"]
        return known
    fresh = secrets.token_hex(4)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(
        json.dumps({"wandb": fresh, "created": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
    )
    os.replace(temporary, path)
    return fresh
