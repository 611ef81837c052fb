"""The shell scripts: short, whole, and the one that needs no download runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_bash_can_read_it(script: Path) -> None:
    assert script.read_text().count("\n") <= 40
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.nightly
def test_from_made_tissue_to_small_classifiers(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHON": sys.executable, "N": "128", "EPOCHS": "3"}
    subprocess.run([str(ROOT / "scripts" / "finetune_and_compress.sh"), str(tmp_path)], check=True, env=env)
    page = (tmp_path / "report.html").read_text()
    assert all(
        f"<td>{name}</td>" in page for name in ("full", "lora", "recovered", "energy", "compensate", "distilled")
    )
    whole, small = (
        json.loads((tmp_path / path / "results.json").read_text()) for path in ("full", "scores/compensate")
    )
    assert small["parameters"] < 0.8 * whole["parameters"]
    made = json.loads((tmp_path / "small" / "compared.json").read_text())
    assert len(made["reports"]) == 10
    assert made["left_out"] == []
