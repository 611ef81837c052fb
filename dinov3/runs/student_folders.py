"""The run folders of students that were trained together, below the folder of all."""

from __future__ import annotations

from pathlib import Path

from dinov3.system.json_file import JsonError, read_object


def student_folders(run: Path) -> list[Path]:
    """In the order of their names; none when ``run`` is something else."""
    return [path.parent for path in sorted(run.glob("*/config.json")) if _is_of_a_student(path)]


def _is_of_a_student(config: Path) -> bool:
    try:
        content = read_object(config, {"multidistillation": {"enabled": bool}})
    except (OSError, JsonError):
        return False  # many programs have a config.json
    return content["multidistillation"]["enabled"] is True
