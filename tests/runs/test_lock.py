from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

import pytest

from dinov3.runs import lock
from dinov3.runs.lock import RunLock, RunLocked


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life is waited for as long as it takes to say so."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once_and_the_lease_guards(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        holder = RunLock(run)
        holder.refuse_if_held()
        with holder:
            assert (run / ".lease").is_file()
            with pytest.raises(RunLocked, match="is at work here"):
                RunLock(run).__enter__()
        with RunLock(run):
            pass
    said = [record.message for record in caplog.records if "no locks" in record.message]
    assert len(said) == 3, "each of the three says it once"
    assert str(run) in said[0]


def test_another_fault_of_a_lock_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    handles = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="broken disk"):
        RunLock(tmp_path / "run").__enter__()
    assert len(os.listdir("/proc/self/fd")) == handles


@pytest.mark.parametrize("name", [".lock", ".lease"])
def test_a_link_of_its_name_is_not_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("mine\n")
    (tmp_path / "run" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic link"):
        RunLock(tmp_path / "run").__enter__()
    assert (tmp_path / "secret").read_text() == "mine\n"


def test_a_link_to_nothing_makes_no_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="symbolic link"):
        RunLock(tmp_path / "run").__enter__()
    assert not (tmp_path / "made").exists()


def test_a_pipe_in_the_place_of_the_lease_is_not_waited_for(tmp_path: Path, quick: None) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / ".lease")
    with RunLock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lease").is_file()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"x" * 10**6, b"another machine\n1 1\n"])
def test_whatever_a_lease_holds_its_holder_is_gone_when_it_stays(content: bytes, tmp_path: Path, quick: None) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lease").write_bytes(content)
    with RunLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / ".lease").exists()


def test_a_folder_that_is_moved_away_while_it_is_held_is_said_to_be_gone(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with lock.RunLock(run):
        run.rename(tmp_path / "elsewhere")
        end = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.02)
        assert (
            caplog.messages[0] == f"{run}: is not there any more: put it back, or the next checkpoint cannot be saved"
        )
        assert not run.exists()
        (tmp_path / "elsewhere").rename(run)
