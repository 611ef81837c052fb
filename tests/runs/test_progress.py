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


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool, total: int) -> tuple[io.StringIO, ProgressLine]:
    """A line of ``total`` steps, and where it stands."""
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen, ProgressLine(total, 0, shown=True)


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


@pytest.mark.parametrize("terminal", [False, True])
def test_a_night_in_which_the_process_was_suspended_is_in_no_estimate(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen, line = shown(monkeypatch, terminal, total=20)
    steps(line, clock, 5)
    clock.now += 8 * 3600
    line.leave_out(8 * 3600)
    steps(line, clock, 5)
    line.close()
    assert "10/20 [00:20<00:20, loss 1.0000" in screen.getvalue()


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
    screen, line = shown(monkeypatch, terminal, total=20)
    clock.now += 60  # workers start
    steps(line, clock, 1)
    assert "1/20 [01:02<?" in screen.getvalue()
    steps(line, clock, 4)
    line.close()
    assert "5/20 [01:10<00:30, " in screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("before", [0, 3])
def test_steps_that_are_jumped_over_are_no_measure_of_the_others(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, terminal: bool, before: int
) -> None:
    screen, line = shown(monkeypatch, terminal, total=40)
    steps(line, clock, before)
    for _ in range(20):
        clock.now += 5.0  # its batch is drawn
        line.step(jumped=True)
    steps(line, clock, 10 - before)
    line.close()
    assert "30/40 [00:20<00:20, " in screen.getvalue()


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


def test_a_program_without_standard_error_is_told_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    line = ProgressLine(20, 0, shown=True)
    steps(line, clock, 20)
    line.close()
    assert capsys.readouterr().out == ""


def test_what_is_not_shown_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(3, 0, shown=False)
    with line.beside("evaluating"), line.counting("features", 3) as count:
        clock.now += 100
        count(3)
    steps(line, clock, 3)
    line.close()
    assert capsys.readouterr() == ("", "")


def slow_steps(line: ProgressLine, clock: Clock, number: int, *, seconds: float, every: int) -> None:
    """As the trainer does them: figures after the first step and after each ``every`` more."""
    for step in range(number):
        clock.now += seconds
        line.step()
        if step % every == 0:
            line.describe(loss=1.0, images_per_second=4.0, data_wait=0.0)


def test_the_first_step_that_is_measured_gives_an_estimate_that_calls_itself_one(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(102, 0, shown=True, figures_every=10)
    clock.now += 5  # workers start
    slow_steps(line, clock, 5, seconds=7.0, every=10)
    first, estimate = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/102 [00:12<?, loss 1.0000")
    assert estimate == "step 2/102 [00:19<about 12 min by 1 step]"


def test_steps_of_more_than_a_minute_are_said_one_by_one_and_the_estimate_gets_surer(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(1000, 0, shown=True, figures_every=5)
    slow_steps(line, clock, 6, seconds=90.0, every=5)
    said = [text.split(", loss")[0] for text in capsys.readouterr().err.splitlines()]
    assert said == [
        "step 1/1000 [01:30<?",
        "step 2/1000 [03:00<about 25 h by 1 step]",
        "step 3/1000 [04:30<about 25 h by 2 steps]",
        "step 4/1000 [06:00<about 25 h by 3 steps]",
        "step 5/1000 [07:30<24:52:30]",
        "step 6/1000 [09:00<24:51:00",
    ]


def test_a_slow_first_step_after_a_resume_is_said_although_its_figures_come_later(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(300, 13, shown=True, figures_every=10)
    for _ in range(2):
        clock.now += 90
        line.step()
    assert capsys.readouterr().err.splitlines() == [
        "step 14/300 [01:30<?]",
        "step 15/300 [03:00<about 7 h by 1 step]",
    ]


def test_steps_of_seconds_wait_for_their_figures(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(5000, 0, shown=True, figures_every=10)
    slow_steps(line, clock, 101, seconds=2.5, every=10)
    said = [text for text in capsys.readouterr().err.splitlines() if "loss" not in text]
    assert said == ["step 2/5000 [00:05<about 3 h by 1 step]"]


def test_a_run_of_less_than_a_minute_has_no_line_more(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(11, 0, shown=True, figures_every=10)
    slow_steps(line, clock, 11, seconds=2.0, every=10)
    assert [text.split()[1] for text in capsys.readouterr().err.splitlines()] == ["1/11", "11/11"]


def test_a_terminal_shows_the_estimate_as_one_until_several_steps_are_measured(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    line = ProgressLine(102, 0, shown=True, figures_every=10)
    slow_steps(line, clock, 5, seconds=7.0, every=10)
    line.close()
    shown = screen.getvalue()
    assert "1/102 [00:07<?" in shown
    assert "2/102 [00:14<about 12 min by 1 step" in shown
    assert "4/102 [00:28<about 11 min by 3 steps" in shown
    assert "5/102 [00:35<11:19" in shown


def test_figures_follow_when_they_are_due_also_where_every_step_is_late(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine(5000, 0, shown=True, figures_every=10)
    slow_steps(line, clock, 31, seconds=90.0, every=10)
    told = [text.split()[1] for text in capsys.readouterr().err.splitlines() if "loss" in text]
    assert told == ["1/5000", "11/5000", "21/5000", "31/5000"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(64, "1 min"), (89, "1 min"), (100, "2 min"), (5400, "90 min"), (7300, "2 h"), (200000, "2 d")],
)
def test_a_rough_time_has_one_unit(seconds: float, said: str) -> None:
    assert progress.rough(seconds) == said
