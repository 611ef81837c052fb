from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import Launcher
from tests.train.waits import RECIPES

DAILY = ["default", "a logged step"]
# Known: which rows are chosen is a mask, so the host asks how many they are.
KNOWN = {"gram of masked tokens": ["read in objectives/gram.py select: return student[chosen], teacher[chosen]"]}


def rows_of(runs: Launcher, log: Path, *recipes: str) -> list[dict[str, Any]]:
    """In a process of its own: a device is made known to torch once and for all."""
    job = runs.call("tests.train.waits:main", [*recipes], log)
    assert job.wait() == [0], job.text()
    rows: list[dict[str, Any]] = [json.loads(line) for line in job.text().splitlines() if line.startswith("{")]
    if "missing" in rows[0]:
        pytest.skip(rows[0]["missing"])
    return rows


def judge(row: dict[str, Any]) -> None:
    assert row["error"] is None, f"{row['recipe']}: would not run on a GPU: {row['error']}"
    waits = [place for place in row["waits"] if place not in KNOWN.get(row["recipe"], [])]
    assert len(waits) <= 1, f"{row['recipe']}: the host waits for the device in {waits}"
    assert all("engine/step.py __call__" in place for place in waits)


def test_a_step_keeps_to_one_device_and_waits_for_it_at_one_place(runs: Launcher, tmp_path: Path) -> None:
    rows = rows_of(runs, tmp_path / "log", *DAILY)
    assert [row["recipe"] for row in rows] == DAILY
    for row in rows:
        judge(row)


@pytest.mark.nightly
def test_a_step_of_every_recipe_keeps_to_one_device_and_waits_for_it_at_one_place(
    runs: Launcher, tmp_path: Path
) -> None:
    rows = rows_of(runs, tmp_path / "log", *[name for name in RECIPES if name not in DAILY])
    for row in rows:
        judge(row)
