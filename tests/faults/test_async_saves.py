"""Saves beside training: the kills, stops and full disks of F2, F4 and F12 once more, and steps taken meanwhile.

The reference is a run that saves between two steps: every number must be the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from tests.faults import campaign
from tests.faults.conftest import Reference
from tests.faults.runs import PERIOD, Launcher, assert_same, history, names, whole
from tests.faults.test_kills import kill_in_a_save, save_cases

nightly = pytest.mark.nightly
ASYNC: dict[str, Any] = {"checkpointing__async_save": "true"}
SHARDED: dict[str, Any] = {"compute_precision__sharding_strategy": "SHARD_GRAD_OP"}
HELD = "tests.faults.hooks:held_save"
PER_CHANGE = {(1, "shards=spoil", ""), (2, "rename", ":0")}


@pytest.mark.parametrize(("ranks", "point", "who"), save_cases(lambda *case: case in PER_CHANGE))
def test_f2_a_run_killed_while_it_saves_beside_training_continues_from_the_newest_whole_checkpoint(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int, point: str, who: str
) -> None:
    kill_in_a_save(runs, reference(ranks), tmp_path / "run", ranks, point, who, **ASYNC)


def contents(out: Path) -> dict[str, Any]:
    """What the older checkpoint, written beside training, holds: its state, and the backbone for its user."""
    folder = step_folders(out)[0]
    files = {name: (folder / name).read_bytes() for name in ("backbone.safetensors", "config.json")}
    facts = json.loads((folder / "train_state.json").read_text())
    own = {name: facts.pop(name) for name in ("run", "config")}  # which run it was, and that it saves beside training
    assert all(own.values())
    return {"state": digest(read_tensors(folder / "state", prefix="")), "facts": facts, **files}


@pytest.mark.parametrize(("ranks", "settings"), [(1, {}), pytest.param(2, {}, marks=nightly), (2, SHARDED)])
def test_steps_are_taken_while_a_checkpoint_is_written_and_it_holds_the_state_before_them(
    runs: Launcher, tmp_path: Path, ranks: int, settings: dict[str, Any]
) -> None:
    expected, out = tmp_path / "expected", tmp_path / "run"
    options = {"ranks": ranks, "train__max_steps": 8, **settings}
    assert runs.run(expected, **options) == [0] * ranks
    # the save of step 6 does not begin to write before step 7, the next but one, is in metrics.jsonl
    env = {"UNTIL": 'metrics.jsonl:"iteration": 7,'}
    assert runs.run(out, prepare=HELD, env=env, **options, **ASYNC) == [0] * ranks
    assert whole(out) == [6, 8]
    assert_same(out, expected)
    assert contents(out) == contents(expected)


@nightly
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(200, 205))
def test_f3_three_kills_at_random_moments_change_nothing(
    runs: Launcher, reference: Reference, tmp_path: Path, seed: int, ranks: int
) -> None:
    campaign.trial(runs, tmp_path / "run", reference(ranks), seed, ranks=ranks, **ASYNC)


def test_the_next_save_waits_for_the_one_under_way_and_both_times_are_written_down(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    env = {"UNTIL": "run.log:step 9 waits for the save of step 6"}
    assert runs.run(out, prepare=HELD, env=env, **ASYNC) == [0]
    assert_same(out, reference(1))
    log = (out / "run.log").read_text()
    assert log.count(" s for the save of step 6") == 1, "and how long"
    rows = [row for row in read_rows(out / "metrics.jsonl") if "checkpoint_seconds" in row]
    assert [row["iteration"] for row in rows][-1] >= 9, "that of step 6 after the save of step 9 has begun"
    assert all(row["checkpoint_blocked_seconds"] > 0 for row in rows)
    assert all(row["checkpoint_seconds"] > 0 and row["checkpoint_bytes"] > 1e6 for row in rows)


def test_f4_a_run_that_is_stopped_finishes_the_save_under_way_and_then_its_own(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    env = {"UNTIL": "run.log:step 8 waits for the save of step 6"}
    assert runs.run(out, prepare=HELD, env=env, fault="step@7=term", **ASYNC) == [85]
    assert whole(out) == [6, 8]
    assert len(names(out)) == 2
    assert runs.run(out, **ASYNC) == [0]
    assert_same(out, reference(1))


def test_an_error_that_ends_the_run_leaves_the_save_under_way_whole(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    env = {"UNTIL": "run.log:waits for the save of step 6"}
    fault = ",".join(f"loss@{step}=spoil" for step in (6, 7))
    assert runs.run(out, prepare=HELD, env=env, fault=fault, nan__max_consecutive=1, **ASYNC) == [70]
    assert names(out) == ["step-00000003", "step-00000006"]
    assert whole(out) == [3, 6]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=nightly), 2])
def test_f12_a_disk_that_is_full_beside_training_ends_all_processes_at_the_next_step(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, ranks=ranks, fault=f"shards@6:{ranks - 1}=fail", **ASYNC) == [74] * ranks
    text = (tmp_path / "run.log").read_text()
    assert text.count("disk full: No space left on device") == text.count("error: ") == 1, "said by one"
    assert names(out) == ["step-00000003"], "nothing partial"
    assert len(history(out)) <= 9, "not later than the save after it"
    assert runs.run(out, ranks=ranks, **ASYNC) == [0] * ranks
    assert_same(out, reference(ranks))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=nightly)])
def test_f12_with_a_warning_training_goes_on_and_saves_next_time(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int
) -> None:
    out, fault = tmp_path / "run", f"shards@6:{ranks - 1}=fail"
    assert runs.run(out, ranks=ranks, fault=fault, checkpointing__on_error="warn", **ASYNC) == [0] * ranks
    log = (tmp_path / "run.log").read_text()
    assert f"disk full: No space left on device; training goes on, the next try is after {PERIOD} steps" in log
    assert whole(out) == [9, 12]
    assert_same(out, reference(ranks))


def test_f12_a_failure_under_way_is_made_good_by_the_last_save(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    env = {"UNTIL": "run.log:step 7 waits for the save of step 6"}
    assert runs.run(out, prepare=HELD, env=env, fault="step@6=term,shards@6=fail", **ASYNC) == [85]
    assert "No space left on device; the state is saved again now" in (tmp_path / "run.log").read_text()
    assert whole(out) == [3, 7]
