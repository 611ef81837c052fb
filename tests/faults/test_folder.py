"""F13, F15, F16: two runs in one folder, configs and data that cannot be used."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from dinov3.engine import lock
from dinov3.engine.lock import RunLock, RunLocked
from tests.faults.conftest import Reference
from tests.faults.runs import Launcher, assert_same, history, write_images


def files(out: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize("ranks", [1, 2])
def test_f13_a_second_run_in_the_same_folder_is_turned_away_and_a_killed_one_frees_it(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int
) -> None:
    out = tmp_path / "run"
    first = runs.start(out, fault="step@4=stall")
    first.wait_for_step(3)
    before = files(out)
    second = runs.start(out, ranks=ranks)
    assert second.wait() == [75] * ranks
    owner = f"process {first.pids[0]} on {socket.gethostname()} is training here"
    assert second.text().count(owner) == ranks
    assert files(out) == before
    first.signal(signal.SIGKILL)
    first.wait()
    assert runs.run(out) == [0], "free at once"
    assert_same(out, reference(1))


def test_f13_a_holder_on_another_machine_is_seen_by_its_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that does not carry locks to other machines: only the lease is there."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.2)
    lease = tmp_path / ".lease"
    alive = threading.Event()

    def elsewhere() -> None:
        for beat in range(100):
            if alive.wait(0.1):
                return
            lease.write_text(f"node-7\n123 {beat}\n")

    lease.write_text("node-7\n123 0\n")
    holder = threading.Thread(target=elsewhere)
    holder.start()
    with pytest.raises(RunLocked, match="a process on node-7 is training here"), RunLock(tmp_path):
        pass
    alive.set()
    holder.join()
    since = time.monotonic()
    with RunLock(tmp_path):
        assert 0.5 < time.monotonic() - since < 5, "taken over after three missing signs"
        assert lease.read_text().startswith(socket.gethostname())
        first = lease.read_text()
        time.sleep(0.5)
        assert lease.read_text() != first, "this one lives"
    assert not lease.exists()


WRONG = {
    "optim.lrr=1": "did you mean",
    "optim.lr=abc": "'abc' is not a number",
    "optim.lr=-1": "out of range",
    "optim.lr=nan": "not a finite number",
    "optim.lr=null": "null is not allowed",
    "optim.warmup_epochs=99": "optim.epochs",
    "crops.global_crops_size=33": "multiple of student.patch_size",
    "optim.lr=???": "??? was left in",
    "data.skip_steps=[[5,2]]": "is not [first, last]",
}


def test_f15_a_wrong_config_ends_every_process_at_once_without_a_group_or_a_folder(
    runs: Launcher, tmp_path: Path
) -> None:
    """The tables of every kind of mistake are in tests/config; here: nothing has begun."""
    for number, (override, message) in enumerate(WRONG.items()):
        out = tmp_path / f"run{number}"
        job = runs.start(out, override, env={"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"})
        assert job.wait(10) == [78], "it did not wait for the other process"
        lines = job.text().strip().splitlines()
        assert len(lines) == 1
        assert re.match(rf"error: .*{re.escape(override.split('=')[0])}: ", lines[0])
        assert message in lines[0]
        assert not out.exists()


@pytest.mark.parametrize("what", ["missing", "a file", "empty", "no images", "too few"])
def test_f16_data_that_cannot_be_used_ends_every_process_before_anything_is_built(
    runs: Launcher, tmp_path: Path, what: str
) -> None:
    data = tmp_path / "data"
    if what == "a file":
        data.write_text("text")
    elif what != "missing":
        data.mkdir()
    if what == "no images":
        (data / "notes.txt").write_text("text")
    if what == "too few":
        write_images(data / "few", 7)
    out = tmp_path / "run"
    ranks = 2 if what in ("missing", "too few") else 1
    assert runs.run(out, ranks=ranks, train__dataset_path=data) == [78] * ranks
    assert str(data) in (tmp_path / "run.log").read_text()
    assert not out.exists()


def test_f16_odd_names_and_links_are_trained_on_or_left_out_and_files_that_vanish_are_replaced(
    runs: Launcher, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(runs.images, data)
    os.rename(data / "000.jpg", os.fsencode(data) + b"/\xff\xfe.jpg")
    os.rename(data / "001.jpg", data / "two\nlines.jpg")
    (data / "loop").symlink_to(data)
    (data / "nowhere.jpg").symlink_to(tmp_path / "not there")
    out = tmp_path / "run"
    job = runs.start(out, train__dataset_path=data, fault="step@3=stall")
    job.wait_for_step(2)
    (data / "040.jpg").unlink()
    job.signal(signal.SIGKILL)
    job.wait()
    assert runs.run(out, train__dataset_path=data) in ([78], [0])
    assert runs.run(out, train__dataset_path=data, resume__allow="[train.dataset_path]") == [0]
    assert [row["iteration"] for row in history(out)] == list(range(12))
