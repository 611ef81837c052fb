"""F13, F15, F16: two runs in one folder, configs and data that cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from dinov3.runs import lock
from dinov3.runs.lock import RunLock, RunLocked
from dinov3.train.command import main
from tests.faults.conftest import Reference
from tests.faults.runs import PATIENCE, Launcher, assert_same, files, history, write_images
from tests.train.tiny import command


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
    owner = f"process {first.pids[0]} on {socket.gethostname()} is at work here"
    assert second.text().count(owner) == 1, "said by one process"
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

    class Elsewhere:
        """A clock that passes only while it is waited on, and a holder that gives a sign at every look while it lives."""

        now, alive = 0.0, True

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds
            if self.alive:
                lease.write_text(f"node-7\n123 {self.now}\n")

    elsewhere, stack = Elsewhere(), contextlib.ExitStack()
    lease.write_text("node-7\n123 0\n")
    with monkeypatch.context() as patched:
        patched.setattr(lock, "time", elsewhere)
        with pytest.raises(RunLocked, match="a process on node-7 is at work here"), RunLock(tmp_path):
            pass
        elsewhere.alive, since = False, elsewhere.now
        stack.enter_context(RunLock(tmp_path))
        assert elsewhere.now - since >= 2 * lock.HEARTBEAT, "taken over after missing signs, not at once"
    with stack:
        first = lease.read_text()
        assert first.startswith(socket.gethostname())
        end = time.monotonic() + PATIENCE
        while lease.read_text() == first:
            assert time.monotonic() < end, "this one gives no sign of life"
            time.sleep(0.01)
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


@pytest.mark.parametrize("override", WRONG)
def test_f15_a_wrong_config_is_one_line_before_there_is_a_group_or_a_folder(
    tmp_path: Path, override: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of every kind of mistake are in tests/config; here: nothing has begun, on the second of two processes."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    assert main([*command(out), override]) == 78, "it did not wait for the other process"
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.match(rf"error: .*{re.escape(override.split('=')[0])}: ", lines[0])
    assert WRONG[override] in lines[0]
    assert not torch.distributed.is_initialized()
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


def test_f16_odd_names_and_links_are_trained_on_or_left_out(runs: Launcher, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(runs.images, data)
    os.rename(data / "000.jpg", os.fsencode(data) + b"/\xff\xfe.jpg")
    os.rename(data / "001.jpg", data / "two\nlines.jpg")
    (data / "loop").symlink_to(data)
    (data / "nowhere.jpg").symlink_to(tmp_path / "not there")
    out = tmp_path / "run"
    assert runs.run(out, train__dataset_path=data) == [0]
    assert [row["iteration"] for row in history(out)] == list(range(12))
    bad = (
        [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
        if (out / "bad_samples.jsonl").exists()
        else []
    )
    assert all("nowhere.jpg" in row["name"] for row in bad)


def test_f16_files_that_vanish_under_way_are_replaced_and_written_down_once(runs: Launcher, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(runs.images, data)
    gone = [data / f"{n:03d}.jpg" for n in (10, 20, 30, 40)]
    env = {"VANISH": "\n".join(map(str, gone))}
    assert runs.run(out, train__dataset_path=data, prepare="tests.faults.hooks:vanishing_files", env=env) == [0]
    rows = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    assert {Path(row["name"]).name for row in rows} <= {p.name for p in gone}
    assert 0 < len(rows) == len({row["name"] for row in rows})
    assert [row["iteration"] for row in history(out)] == list(range(12))
    assert runs.run(out, train__dataset_path=data, optim__epochs=4) == [78], "it is another data set now"
