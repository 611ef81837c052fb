"""The run folders of students that were trained together, below the folder of all."""

from __future__ import annotations

import json
from pathlib import Path


def student_folders(run: Path) -> list[Path]:
    """In the order of their names; none when ``run`` is something else."""
    return [path.parent for path in sorted(run.glob("*/config.json")) if _is_of_a_student(path)]


def _is_of_a_student(config: Path) -> bool:
    try:
        content = json.loads(config.read_text())
    except ValueError:
        return False  # many programs have a config.json
    block = content.get("multidistillation") if isinstance(content, dict) else None
    return isinstance(block, dict) and block.get("enabled") is True
