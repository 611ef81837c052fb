from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from dinov3.system import files
from dinov3.system.files import (
    as_bytes,
    open_to_append,
    open_unlinked,
    remove_half_written,
    replacing,
    write_json,
    write_whole,
)


def half_written(path: Path) -> None:
    with replacing(path) as fresh:
        fresh.write_text("half")
        raise OSError("disk full")


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        half_written(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename = os.replace
    monkeypatch.setattr(files, "flush", lambda path: done.append(f"flush {'folder' if path.is_dir() else 'file'}"))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), rename(a, b)))
    write_whole(tmp_path / "a", "text")
    assert done == ["flush file", "rename", "flush folder"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_appended_through_a_link(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        open_to_append(tmp_path / "link")
    with pytest.raises(OSError, match="symbolic link"):
        open_unlinked(tmp_path / "link", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert (tmp_path / "target").exists() is there
    assert not there or (tmp_path / "target").read_text() == "mine"


def test_the_name_of_a_half_written_file_cannot_be_known_before(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a") as fresh:
            names.add(fresh.name)
    assert len(names) == 20
    (tmp_path / names.pop()).symlink_to(tmp_path / "target")
    remove_half_written(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_names_that_are_no_text_are_written_as_their_bytes(tmp_path: Path) -> None:
    for name in (b"Gr\xc3\xb6\xc3\x9fe", b"\xff\xfe"):
        text = name.decode("ascii", "surrogateescape")  # what Python makes of them under LANG=C
        write_whole(tmp_path / "page.html", f"<p>{text}</p>")
        assert (tmp_path / "page.html").read_bytes() == b"<p>" + name + b"</p>"
    assert as_bytes("a\ud800") == b"a\\ud800"


def test_an_error_of_writing_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"), replacing(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
