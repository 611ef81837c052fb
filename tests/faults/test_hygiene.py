"""F28: two hundred steps and twenty checkpoints leave nothing behind in the process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dinov3.system.rows import read_rows
from tests.faults.runs import Launcher


@pytest.mark.nightly
def test_f28_files_threads_processes_and_memory_do_not_grow_over_a_long_run(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = tmp_path / "hygiene.jsonl"
    settings = {"optim__epochs": 50, "checkpointing__period": 10, "train__num_workers": 1}
    job = runs.start(out, prepare="tests.faults.hooks:hygiene", env={"HYGIENE": str(record)}, **settings)
    assert job.wait(200) == [0]
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, 201, 10))
    for what in ("files", "threads", "children", "shared_memory"):
        assert rows[-1][what] <= rows[2][what], f"{what}: {[row[what] for row in rows]}"
    memory = np.array([row["megabytes"] for row in rows[5:]])
    slope = np.polyfit(np.arange(len(memory)), memory, 1)[0]
    assert slope < 0.5, f"MB a checkpoint: {memory}"


@pytest.mark.nightly
def test_f28_steps_increase_strictly_over_three_starts(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for kill in (4, 7, 10):
        assert runs.run(out, fault=f"step@{kill}") == [-9]
    assert runs.run(out) == [0]
    assert [row["iteration"] for row in read_rows(out / "metrics.jsonl")] == list(range(12))
