from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinov3.runs import signals
from dinov3.runs.lock import RunLock
from dinov3.runs.signals import STOPPING, Asked, StopRequest

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests themselves were begun by nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_only_usr2_asks_for_another_turn(number: signal.Signals) -> None:
    stop = StopRequest()
    assert (stop.signal_name, stop.requeue) == (None, False)
    os.kill(os.getpid(), number)
    assert (stop.signal_name, stop.requeue) == (number.name, number == signal.SIGUSR2)


def test_usr2_twice_and_then_sigterm_is_one_request_to_requeue() -> None:
    stop = StopRequest()
    for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert (stop.signal_name, stop.requeue) == ("SIGUSR2", True)


def test_a_second_sigterm_ends_the_process_unless_it_is_the_first_one_delivered_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(signals.os, "kill", lambda pid, number: killed.append((pid, number)))
    StopRequest()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert killed == []
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_handlers_that_a_launcher_installed_before_are_replaced() -> None:
    called: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: called.append(number))
    StopRequest()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert called == []


@pytest.mark.parametrize(
    ("numbers", "asked"),
    [
        ([], Asked.NOBODY),
        ([signal.SIGCONT], Asked.NOBODY),  # a suspended job goes on
        ([signal.SIGHUP], Asked.A_PERSON),
        ([signal.SIGINT], Asked.A_PERSON),
        ([signal.SIGUSR1], Asked.A_PERSON),
        ([signal.SIGTERM], Asked.SIGTERM),
        ([signal.SIGCONT, signal.SIGTERM], Asked.THE_SCHEDULER),
        ([signal.SIGTERM, signal.SIGCONT], Asked.THE_SCHEDULER),
        ([signal.SIGUSR2], Asked.ANOTHER_TURN),
        ([signal.SIGUSR2, signal.SIGCONT, signal.SIGTERM], Asked.ANOTHER_TURN_THEN_SIGTERM),
    ],
)
def test_who_asks_is_told_by_the_signals_that_come_together(numbers: list[signal.Signals], asked: Asked) -> None:
    stop = StopRequest()
    for number in numbers:
        signal.raise_signal(number)
    assert stop.asked == asked


def test_sigcont_of_a_suspended_job_says_nothing_about_a_sigterm_long_after(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()
    signal.raise_signal(signal.SIGCONT)
    monkeypatch.setattr(signals, "SAME_REQUEST", 0.0)
    time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked == Asked.SIGTERM


def test_the_notice_counts_from_the_first_signal_that_asks() -> None:
    stop = StopRequest()
    signal.raise_signal(signal.SIGCONT)
    time.sleep(0.02)
    began = time.monotonic()
    assert stop.since >= began, "another process was asked"
    signal.raise_signal(signal.SIGUSR2)
    first = stop.since
    assert first >= began
    time.sleep(0.02)
    signal.raise_signal(signal.SIGTERM)
    assert stop.since == first


def test_a_closed_terminal_is_a_request_and_under_nohup_it_is_none() -> None:
    stop = StopRequest()
    signal.raise_signal(signal.SIGHUP)
    assert stop.signal_name == "SIGHUP"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    signal.raise_signal(signal.SIGHUP)
    assert stop.signal_name is None


def test_ctrl_c_is_answered_at_once_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    StopRequest()
    signal.raise_signal(signal.SIGUSR1)
    assert capfd.readouterr().err == ""
    stop = StopRequest()
    signal.raise_signal(signal.SIGINT)
    assert stop.signal_name == "SIGINT"
    assert capfd.readouterr().err == "\nstopping after this step, saving; again to end now\n"


def test_what_is_to_be_done_before_an_end_at_once_is_done_and_its_faults_are_dropped(tmp_path: Path) -> None:
    done: list[str] = []

    def fails() -> None:
        raise OSError("disk")

    stop = StopRequest(end=lambda number: done.append("end"))
    with RunLock(tmp_path / "run") as lock:
        stop.at_end(fails)
        stop.at_end(lock.forget)
        signal.raise_signal(signal.SIGINT)
        assert (tmp_path / "run" / ".lease").exists()
        signal.raise_signal(signal.SIGINT)
        assert not (tmp_path / "run" / ".lease").exists()
    assert done == ["end"]
