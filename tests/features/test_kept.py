from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.features.kept import cache_folder


def test_what_is_given_is_taken_and_else_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    assert cache_folder(None) == tmp_path / "dinov3" / "features"


def test_without_a_cache_that_can_be_written_to_a_passing_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = cache_folder(None)
    assert folder.is_dir()
    assert "features are not kept" in caplog.text
    monkeypatch.setattr("dinov3.distributed.context.world_size", lambda: 2)
    with pytest.raises(OSError, match="--cache"):
        cache_folder(None)
    folder.rmdir()
