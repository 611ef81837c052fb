from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.system import patience
from dinov3.system.patience import MOST, Patience


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


def ticks_until_over(clock: Clock, waiting: Patience, seconds: float) -> int:
    number = 0
    while not waiting.over():
        clock.now += seconds
        number += 1
    return number


@pytest.mark.parametrize("seconds", [0.4, 3.0, 600.0])
def test_a_limit_is_over_after_its_seconds(clock: Clock, seconds: float) -> None:
    waiting = Patience(seconds)
    assert ticks_until_over(clock, waiting, waiting.tick) == pytest.approx(seconds / waiting.tick, abs=1)


def test_a_night_in_which_the_process_was_suspended_takes_no_more_than_a_few_ticks(clock: Clock) -> None:
    waiting = Patience(60.0)
    clock.now += 8 * 3600
    assert not waiting.over()
    assert waiting.stood_still == 8 * 3600 - MOST
    assert ticks_until_over(clock, waiting, 1.0) == 60 - MOST


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_time_never_comes_back(gaps: list[float]) -> None:
    waiting, was_over = Patience(10.0), False
    for gap in gaps:
        waiting._asked -= gap
        assert waiting.over() or not was_over
        was_over = waiting.over()
