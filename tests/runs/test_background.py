from __future__ import annotations

import threading

import pytest

from dinov3.runs.background import Background


def test_an_action_runs_beside_the_caller_and_its_value_is_taken_once() -> None:
    work, go = Background[str](), threading.Event()
    assert not work.busy
    assert not work.ended
    work.start("a", lambda: f"{go.wait(10)} in {threading.current_thread().name}")
    assert work.busy
    assert not work.ended, "it waits for us"
    with pytest.raises(RuntimeError, match="b cannot begin: the result of a was not taken"):
        work.start("b", lambda: "")
    go.set()
    assert work.result().startswith("True in dinov3-background")
    assert not work.busy
    with pytest.raises(RuntimeError, match="nothing was started"):
        work.result()


def test_the_error_of_an_action_is_the_callers_and_the_next_action_is_free_of_it() -> None:
    def fail() -> int:
        raise OSError("no disk")

    work = Background[int]()
    work.start("a", fail)
    with pytest.raises(OSError, match="no disk"):
        work.result()
    work.start("b", lambda: 2)
    assert work.result() == 2
