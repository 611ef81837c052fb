"""A finished run started again: what a kill can have left is removed, what it took is made, nothing else is touched."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from dinov3.runs.step_folders import step_folders
from dinov3.train.command import main
from tests.faults.runs import files
from tests.train.tiny import command

KEEP: dict[str, object] = {"checkpointing__max_to_keep": 2, "train__max_steps": 6, "evaluation__pictures": "true"}
LEFT = {".tmp-00000006.12-ab", ".trash-step-00000003", ".trash-step-00000002", "step-00000001"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference")
    assert main(command(out, **KEEP)) == 0
    return out


@pytest.fixture
def run(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "run"))


@pytest.fixture
def littered(run: Path) -> Path:
    """With a checkpoint too many, and folders half written and half deleted."""
    ckpt = run / "ckpt"
    for name in LEFT:
        shutil.copytree(ckpt / "step-00000003", ckpt / name)
        if not name.startswith("step"):
            (ckpt / name / "manifest.json").unlink()
    return run


def names(run: Path) -> set[str]:
    return {p.name for p in (run / "ckpt").iterdir()}


def test_what_kills_leave_is_removed_named_and_said(littered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(littered, **KEEP)) == 0
    assert names(littered) == {"step-00000003", "step-00000006"}
    said = capsys.readouterr().out
    assert f"removed what a killed run left: {', '.join(sorted(LEFT))}\n" in said
    assert "finished at step 6" in said


def test_a_damaged_checkpoint_counts_for_nothing(littered: Path) -> None:
    (littered / "ckpt" / "step-00000003" / "train_state.json").unlink()
    assert main(command(littered, **KEEP)) == 0
    assert names(littered) == {"step-00000001", "step-00000003", "step-00000006"}


def test_under_other_rules_no_checkpoint_is_removed(littered: Path) -> None:
    assert main(command(littered, **{**KEEP, "checkpointing__max_to_keep": 1})) == 0
    assert names(littered) == {"step-00000001", "step-00000003", "step-00000006"}


def test_a_folder_that_cannot_be_written_is_left_as_it_is(
    littered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (littered / "pca.png").unlink()
    before = files(littered)
    access, opened = os.access, os.open

    def open_to_read(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not mode & os.W_OK)
    monkeypatch.setattr(os, "open", open_to_read)
    assert main(command(littered, **KEEP)) == 0
    assert "finished at step 6" in capsys.readouterr().out
    assert files(littered) == before


@pytest.mark.parametrize("name", ["pca.png", "curves.png"])
def test_a_picture_of_an_earlier_end_is_drawn_again_and_nothing_is_trained(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = run / "ckpt" / "step-00000006" / "manifest.json"
    os.utime(run / name, ns=(0, manifest.stat().st_mtime_ns - 1))
    metrics = (run / "metrics.jsonl").read_text()
    assert main(command(run, **KEEP)) == 0
    assert "done: 6 steps" in capsys.readouterr().out
    assert (run / name).stat().st_mtime_ns >= manifest.stat().st_mtime_ns
    assert (run / "metrics.jsonl").read_text() == metrics
    assert main(command(run, **KEEP)) == 0
    assert "finished at step 6" in capsys.readouterr().out


def test_a_run_that_went_further_has_no_end_at_an_earlier_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "pca.png").unlink()
    assert main(command(run, **{**KEEP, "train__max_steps": 3})) == 0
    assert "finished at step 6" in capsys.readouterr().out
    assert not (run / "pca.png").exists()


def test_going_back_to_the_end_of_another_run_touches_neither(littered: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(littered, tmp_path / "other"))
    before = files(littered), files(out)
    assert main(command(out, "--resume-from", str(step_folders(littered)[-1]), **KEEP)) == 0
    assert (files(littered), files(out)) == before
