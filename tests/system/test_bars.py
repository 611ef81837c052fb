from __future__ import annotations

import io
import sys

import pytest

from dinov3.system import bars
from dinov3.system.bars import Bar, counted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Bar(10, about="reading", unit="images") as bar:
        bar.update(10)
    assert "reading: 100%" in screen.getvalue()


def test_a_file_gets_a_line_soon_and_one_a_minute_and_nothing_of_what_is_quick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with Bar(1000, about="reading", unit="images") as bar, Bar(1000, about="other", unit="x", shown=False) as hidden:
        for _ in range(1000):
            now[0] += 0.125
            bar.update()
            hidden.update()
    assert (
        capsys.readouterr().err
        == "reading: 80 of 1,000 images, 0:01:55 left\nreading: 560 of 1,000 images, 0:00:55 left\n"
    )


@pytest.mark.parametrize("closed", [False, True])
def test_a_program_without_standard_error_is_told_nothing(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    monkeypatch.setattr(bars, "SOON", 0.0)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with Bar(2, about="counting", unit="images") as bar:
        bar.update()
    assert out.getvalue() == ""


def test_what_does_not_know_who_watches_is_counted_by_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with counted("probe", 4, "steps") as count:
        count(1)
        count(3)
    assert "probe: 100%" in screen.getvalue()
    assert "4/4" in screen.getvalue()
