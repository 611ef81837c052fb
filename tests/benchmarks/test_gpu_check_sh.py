"""The script for a bare machine, with an interpreter that only says what it lacks and what it is asked to run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"


def run_script(folder: Path, lacking: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``lacking``: what the interpreter says it does not have."""
    python, wheels = folder / "python", folder / "wheels"
    wheels.mkdir(exist_ok=True)
    python.write_text(f'#!/bin/sh\nif [ "$1" = - ]; then echo "{lacking}"; else echo "asked: $*"; fi\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "WHEELS": str(wheels)}
    return subprocess.run(
        [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_with_everything_there_the_check_runs_with_the_arguments_given(tmp_path: Path) -> None:
    done = run_script(tmp_path, "", "--out", "a report.json", "--only", "A")
    assert done.stdout == "asked: benchmarks/gpu_check.py --out a report.json --only A\n"
    assert done.returncode == 0


def test_a_wheel_is_installed_for_what_is_missing_and_for_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name in ("PyYAML-6.0.3-cp312-cp312-manylinux_2_28_x86_64.whl", "omegaconf-2.4.0-py3-none-any.whl"):
        (tmp_path / "wheels" / name).touch()
    done = run_script(tmp_path, "pyyaml")
    installed, ran = done.stdout.splitlines()
    assert "pip install" in installed
    assert "--no-index" in installed
    assert "PyYAML-6.0.3" in installed
    assert "omegaconf" not in installed
    assert ran == "asked: benchmarks/gpu_check.py"


def test_a_missing_wheel_is_named_with_what_to_do_and_nothing_runs(tmp_path: Path) -> None:
    done = run_script(tmp_path, "simplejpeg")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "simplejpeg is not installed" in done.stderr
    assert "wheels" in done.stderr


@pytest.mark.parametrize("package", ["omegaconf", "simplejpeg", "pyyaml"])
def test_what_the_check_carries_is_a_dependency_of_the_project(package: str) -> None:
    assert f'"{package}' in (ROOT / "pyproject.toml").read_text()
    assert package in SCRIPT.read_text()
