from __future__ import annotations

import io
import sys

import pytest

from dinov3.runs import progress
from dinov3.runs.progress import ProgressLine


class Clock:
    """Stands in for the time that this module and tqdm read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps(line: ProgressLine, clock: Clock, number: int) -> None:
    for _ in range(number):
        clock.now += 2.0
        line.step()
        line.describe(loss=1.0, images_per_second=4.0, data_wait=0.0)


def test_what_is_left_counts_the_time_of_steps_and_not_that_of_evaluations(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(20, 0, shown=True)
    with line.beside("evaluating step 0"):
        clock.now += 600
    steps(line, clock, 10)
    assert "step 10/20 [00:20<00:20, loss 1.0000, " in capsys.readouterr().err
    assert line.training_seconds == 20
    with line.beside("saving"), line.beside("waiting"):
        clock.now += 60
    steps(line, clock, 1)
    assert "step 11/20 [00:22<00:18, " in (said := capsys.readouterr().err)
    assert "evaluations and saves 11:00" in said


def test_the_line_of_a_terminal_counts_in_the_same_way(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    line = ProgressLine(20, 0, shown=True)
    with line.beside("evaluating step 0"):
        clock.now += 600
    steps(line, clock, 10)
    line.close()
    assert "evaluating" not in screen.getvalue().split("\r")[-1]
    assert "10/20 [00:20<00:20, loss 1.0000" in screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_slow_first_step_is_no_measure_of_the_others(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    line = ProgressLine(20, 0, shown=True)
    clock.now += 60  # workers start
    steps(line, clock, 1)
    assert "1/20 [01:02<?" in screen.getvalue()
    steps(line, clock, 4)
    line.close()
    assert "5/20 [01:10<00:30, " in screen.getvalue()


def test_a_file_gets_lines_and_no_carriage_return_and_not_one_a_step(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(5000, 0, shown=True)
    steps(line, clock, 5000)
    line.close()
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "\x1b" not in said
    assert 50 < said.count("\n") <= 5000 * 2 / progress.MINUTE + progress.LINES
    assert said.splitlines()[-1].startswith("step 5000/5000 [")


def test_an_evaluation_says_how_far_it_is(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    line = ProgressLine(20, 0, shown=True)
    with line.beside("evaluating step 0"), line.counting("features of step 0:", 2000) as count:
        for _ in range(2000):
            clock.now += 0.01
            count(1)
    assert "features of step 0: 2,000 images" in screen.getvalue()
    assert "features of step 0: 1,020 of 2,000" in screen.getvalue()


def test_a_part_that_is_not_announced_is_named_when_it_takes_long(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(20, 0, shown=True)
    with line.counting("probe:", 500, "steps", announced=False) as count:
        count(100)
        assert capsys.readouterr().err == ""
        clock.now += progress.MINUTE
        count(1)
    assert capsys.readouterr().err == "probe: 101 of 500\n"


def test_what_is_not_shown_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(3, 0, shown=False)
    with line.beside("evaluating"), line.counting("features", 3) as count:
        clock.now += 100
        count(3)
    steps(line, clock, 3)
    line.close()
    assert capsys.readouterr() == ("", "")
