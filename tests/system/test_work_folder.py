"""What is made beside a file leaves nothing behind, whoever was killed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dinov3.system.work_folder import work_folder


def dead() -> int:
    """The number of a process that has ended."""
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_it_is_gone_with_those_of_the_dead_and_those_of_the_living_stay(tmp_path: Path) -> None:
    left, living = tmp_path / f".a.onnx.{dead()}.x", tmp_path / f".a.onnx.{os.getpid()}.y"
    for folder in (left, living, tmp_path / ".a.onnx.notes"):
        folder.mkdir()
    with work_folder(tmp_path / "a.onnx") as folder:
        assert not left.exists()
        (folder / "part").write_text("")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, ".a.onnx.notes"])


def test_an_error_names_the_file_and_removes_the_folders_that_were_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "a.onnx"

    def full_disk() -> None:
        with work_folder(out) as folder:
            (folder / "part").write_text("")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        full_disk()
    assert caught.value.filename == str(out)
    assert not [*tmp_path.iterdir()]
