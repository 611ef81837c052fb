"""Curves, page and patch features of a run, all at once: ``python scripts/pictures_of_a_run.py runs/demo``."""

from __future__ import annotations

import sys
from pathlib import Path

from dinov3.cli import main


def draw(run: Path) -> int:
    """Write ``RUN/report.html`` and ``RUN/curves.png``; the first exit code that is not 0."""
    return main(["report", str(run)]) or main(
        ["viz", "curves", "--weights", str(run), "--out", str(run / "curves.png")]
    )


if __name__ == "__main__":
    sys.exit(draw(Path(sys.argv[1])))
