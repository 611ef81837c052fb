"""What goes wrong with features."""

from __future__ import annotations

from pathlib import Path

from dinov3.system.errors import Foreseeable


class FeatureError(Foreseeable):
    """Features cannot be computed, written or read as asked; the text is one line that says what to do."""


def refuse_no_folder(run: Path) -> None:
    """FeatureError when there is no folder ``run``: what it lacks is then not the point."""
    if not run.is_dir():
        what = "is not a folder" if run.exists() else "there is no such folder"
        raise FeatureError(f"{run}: {what}: give that of a run")
