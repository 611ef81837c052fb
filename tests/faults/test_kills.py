"""F1, F2, F3, F10: a process that is killed at any moment continues bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import campaign
from tests.faults.conftest import Reference
from tests.faults.runs import KEEP, PERIOD, Launcher, assert_same, history, names, whole
from tests.train.tiny import TOTAL_STEPS

KILLED = -9
nightly = pytest.mark.nightly


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("step", [random.Random(3).randrange(1, TOTAL_STEPS)])
def test_f1_a_killed_run_repeats_at_most_a_period_and_ends_as_if_nothing_had_happened(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int, step: int
) -> None:
    out = tmp_path / "run"
    assert KILLED in runs.run(out, ranks=ranks, fault=f"step@{step}:{ranks - 1}")
    before = history(out)
    assert [row["iteration"] for row in before] == list(range(step))
    assert runs.run(out, ranks=ranks) == [0] * ranks
    assert history(out)[:step] == before, "what is trained again has the losses it had"
    assert step - (whole_before := step // PERIOD * PERIOD) <= PERIOD
    assert f"resumed    at step {whole_before}" in (tmp_path / "run.log").read_text() or whole_before == 0
    assert_same(out, reference(ranks))


# (point, the newest whole checkpoint after the kill in the save of step 9)
SAVE_POINTS = {"shards": 6, "shards=spoil": 6, "manifest": 6, "rename": 6, "committed": 9, "prune": 9}


def save_cases(per_change: Callable[[int, str, str], bool]) -> list[Any]:
    """(ranks, point, which of them dies); every night those that are not for every change."""
    return [
        pytest.param(ranks, point, who, marks=() if per_change(ranks, point, who) else nightly)
        for point in SAVE_POINTS
        for ranks, who in ((1, ""), (2, ":0"), (2, ":1"), (2, ""))
        if ranks == 1 or point.startswith("shards") or who == ":0"
    ]


def kill_in_a_save(
    runs: Launcher, reference: Path, out: Path, ranks: int, point: str, who: str, **changes: Any
) -> None:
    """Kill a run in its save of step 9 and continue it."""
    name, _, action = point.partition("=")
    fault = f"{name}@9{who}" + (f"={action}" if action else "")
    assert KILLED in runs.run(out, ranks=ranks, fault=fault, **changes)
    assert any(n.startswith((".tmp-", ".trash-")) for n in names(out)) or point == "committed"
    assert whole(out)[-1] == SAVE_POINTS[point]
    assert 6 in whole(out), "the checkpoint before is untouched"
    assert runs.run(out, ranks=ranks, **changes) == [0] * ranks
    assert len(names(out)) == KEEP
    assert_same(out, reference)


@pytest.mark.parametrize(
    ("ranks", "point", "who"),
    save_cases(lambda ranks, point, who: ranks == 1 or (point, who) == ("shards=spoil", ":1")),
)
def test_f2_a_run_killed_while_it_saves_continues_from_the_newest_whole_checkpoint(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int, point: str, who: str
) -> None:
    kill_in_a_save(runs, reference(ranks), tmp_path / "run", ranks, point, who)


@pytest.mark.parametrize("seed", [0, 1])
def test_f3_three_kills_at_random_moments_change_nothing(
    runs: Launcher, reference: Reference, tmp_path: Path, seed: int
) -> None:
    campaign.trial(runs, tmp_path / "run", reference(1), seed)


@nightly
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(100, 125))
def test_f3_many_times(runs: Launcher, reference: Reference, tmp_path: Path, seed: int, ranks: int) -> None:
    campaign.trial(runs, tmp_path / "run", reference(ranks), seed, ranks=ranks)


# 64 images, 8 a step: an epoch of the data ends after step 8; a save at 3, 6, 9 and at the end.
@pytest.mark.parametrize("step", [0, 8, 11])
def test_f10_kills_at_the_first_step_at_the_end_of_an_epoch_and_at_the_last_step(
    runs: Launcher, reference: Reference, tmp_path: Path, step: int
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, fault=f"step@{step}") == [KILLED]
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


@pytest.mark.parametrize("step", [5, pytest.param(6, marks=nightly), 8])
def test_f10_kills_around_the_steps_at_which_the_gram_teacher_changes(
    runs: Launcher, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, step: int
) -> None:
    gram = {
        "gram__use_loss": "true",
        "gram__it_load_ema_teacher": 5,
        "gram__rep_update": "true",
        "gram__it_first_update": 6,
        "gram__update_frequency": 2,
        "gram__max_updates": 2,
    }
    expected = tmp_path_factory.getbasetemp() / "gram reference"
    if not expected.exists():
        assert runs.run(expected, **gram) == [0]
    out = tmp_path / "run"
    assert runs.run(out, fault=f"step@{step}", **gram) == [KILLED]
    assert runs.run(out, **gram) == [0]
    assert_same(out, expected)


def test_f10_a_finished_run_started_again_changes_no_file(runs: Launcher, reference: Reference) -> None:
    out = reference(1)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")}
    assert runs.run(out) == [0]
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*")} == before
