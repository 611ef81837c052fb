from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinov3.system.cores import cores, load_on_cores

ROOT = Path(__file__).parents[2]


def test_the_cores_that_this_process_may_use_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cores() == 3


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (None, 1)])
def test_where_no_core_can_be_left_out_all_are_counted(
    count: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores() == expected


def test_nothing_else_counts_cores() -> None:
    counting = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dinov3").rglob("*.py")
        if any(word in path.read_text() for word in ("sched_getaffinity", "cpu_count"))
    }
    assert counting == {"dinov3/system/cores.py"}


@pytest.mark.parametrize(("load", "said"), [(3.0, ""), (9.5, "a load of 9.5 on 2 cores")])
def test_a_machine_that_more_programs_want_is_said(load: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    found = load_on_cores()
    assert said in found
    assert bool(found) == bool(said)
