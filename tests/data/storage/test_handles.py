from __future__ import annotations

import os
import pickle
import sys

import pytest

from dinov3.data.storage.handles import Handles


def test_the_one_unused_for_longest_is_closed() -> None:
    closed: list[str] = []
    handles = Handles(2, closed.append)
    for name in ("a", "b", "a", "c"):
        assert handles.get(ord(name), lambda name=name: name) == name  # type: ignore[misc]
    assert closed == ["b"]
    del handles
    assert closed == ["b", "a", "c"]


def test_a_child_opens_its_own_and_leaves_its_parents_open() -> None:
    opened: list[int] = []
    handles: Handles[int] = Handles(2, os.close)

    def opening() -> int:
        opened.append(os.getpid())
        return os.open("/dev/null", os.O_RDONLY)

    ours = handles.get(0, opening)
    child = os.fork()
    if child == 0:
        theirs = handles.get(0, opening)
        handles.get(0, opening)
        os._exit(0 if theirs != ours and len(opened) == 2 and os.fstat(ours) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert handles.get(0, opening) == ours
    assert len(opened) == 1


def test_a_pickled_copy_has_none_open() -> None:
    handles: Handles[int] = Handles(2, os.close)
    first = handles.get(0, lambda: os.open("/dev/null", os.O_RDONLY))
    copy = pickle.loads(pickle.dumps(handles))
    assert copy.get(0, lambda: os.open("/dev/null", os.O_RDONLY)) != first


def test_nothing_is_closed_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    handles = Handles(2, closed.append)
    handles.get(0, lambda: "a")
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    del handles
    assert closed == []
