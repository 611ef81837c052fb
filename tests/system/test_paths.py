from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from dinov3.system.paths import expanded


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/x") == Path("/somewhere/x")
    assert expanded("~") == Path("/somewhere")
    assert expanded("a/~/x") == Path("a/~/x")


def test_where_nobody_knows_the_home_folder_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert expanded("~/x") == Path("~/x")
    assert expanded("~no-such-user-here/x") == Path("~no-such-user-here/x")
