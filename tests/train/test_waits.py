from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.waits import RECIPES

ROOT = Path(__file__).resolve().parents[2]
DAILY = ["default", "a logged step"]
# Known: which rows are chosen is a mask, so the host asks how many they are.
KNOWN = {"gram of masked tokens": ["read in objectives/gram.py select: return student[chosen], teacher[chosen]"]}


def rows_of(*recipes: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.train.waits", *recipes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    if "missing" in rows[0]:
        pytest.skip(rows[0]["missing"])
    return rows


def judge(row: dict[str, Any]) -> None:
    assert row["error"] is None, f"{row['recipe']}: would not run on a GPU: {row['error']}"
    waits = [place for place in row["waits"] if place not in KNOWN.get(row["recipe"], [])]
    assert len(waits) <= 1, f"{row['recipe']}: the host waits for the device in {waits}"
    assert all("engine/step.py __call__" in place for place in waits)


def test_a_step_keeps_to_one_device_and_waits_for_it_at_one_place() -> None:
    rows = rows_of(*DAILY)
    assert [row["recipe"] for row in rows] == DAILY
    for row in rows:
        judge(row)


@pytest.mark.nightly
def test_a_step_of_every_recipe_keeps_to_one_device_and_waits_for_it_at_one_place() -> None:
    rows = rows_of(*[name for name in RECIPES if name not in DAILY])
    for row in rows:
        judge(row)
