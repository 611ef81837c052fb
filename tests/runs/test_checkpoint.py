from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinov3.runs.checkpoint import Checkpointer, load_tensors, read_tensors
from dinov3.runs.folder import RUN_ID, RunFolder
from dinov3.runs.manifest import problem_with
from dinov3.runs.run_id import run_id
from dinov3.runs.step_folders import CheckpointError, newest_valid, own_step_folders, step_folders


def state(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "student.w": torch.randn(4, 3, generator=g),
        "student.half": torch.randn(5, generator=g).bfloat16(),
        "optimizer.state.w.step": torch.tensor(7.0),
        "optimizer.n": torch.tensor(2**40),
    }


def save(run: Path, step: int, tensors: dict[str, Tensor] | None = None, **kwargs: int | None) -> Path:
    options: dict[str, int | None] = {"max_to_keep": 3, "keep_every": None, **kwargs}
    writer = Checkpointer(run, **options)
    writer.tidy(None)
    return writer.save(
        step, tensors or state(step), {"counters": {"step": step, "samples": 8 * step}}, lambda f: (f / "extra").touch()
    ).folder


def test_what_is_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    folder = save(tmp_path, 5, state())
    empty = {k: torch.zeros_like(v) for k, v in state().items()}
    load_tensors(empty, folder / "state")
    assert all(torch.equal(empty[k], v) and empty[k].dtype == v.dtype for k, v in state().items())
    assert read_tensors(folder / "state", "student.").keys() == {"w", "half"}


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert all(n.endswith((".safetensors", ".json")) or n == "extra" for n in names), names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("student.w"), "unexpected ['student.w']"),
        (lambda s: s.update({"student.new": torch.zeros(1)}), "missing ['student.new']"),
        (lambda s: s.update({"student.w": torch.zeros(4, 4)}), "student.w (4, 3), model (4, 4)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    folder = save(tmp_path, 1)
    other = state()
    change(other)
    with pytest.raises(CheckpointError) as error:
        load_tensors(other, folder / "state")
    assert message in str(error.value)


def damage_bit(folder: Path) -> None:
    file = next((folder / "state").iterdir())
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def damage_truncate(folder: Path) -> None:
    file = next((folder / "state").iterdir())
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "is damaged (sha256 differs)": damage_bit,
    "bytes": damage_truncate,
    "is missing": lambda f: (f / "train_state.json").unlink(),
    "manifest.json is missing": lambda f: (f / "manifest.json").unlink(),
    "manifest.json is damaged": lambda f: (f / "manifest.json").write_text("{"),
    "outside the checkpoint": lambda f: (f / "manifest.json").write_text(
        json.dumps(
            {
                "format_version": 1,
                "files": {n: {"size": 1, "sha256": ""} for n in ("../../x", "train_state.json", "state/a")},
            }
        )
    ),
    "does not name the state": lambda f: (f / "manifest.json").write_text('{"format_version": 1, "files": {}}'),
    "is damaged": lambda f: (f / "manifest.json").write_text('{"format_version": 1, "files": ["x"]}'),
    "newer than this program": lambda f: (f / "manifest.json").write_text(
        json.dumps({"format_version": 99, "files": {}})
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_reason(
    tmp_path: Path, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = save(tmp_path, 3), save(tmp_path, 6)
    DAMAGES[reason](bad)
    with caplog.at_level(logging.WARNING):
        assert newest_valid(tmp_path) == good
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("dinov3")]
    assert [reason in w and bad.name in w for w in warnings] == [True]


def test_when_every_checkpoint_is_damaged_nothing_restarts_silently(tmp_path: Path) -> None:
    damage_bit(save(tmp_path, 3))
    with pytest.raises(
        CheckpointError, match=r"no checkpoint can be read \(step-00000003: .*: --no-resume moves them aside"
    ):
        newest_valid(tmp_path)
    assert newest_valid(tmp_path / "nothing here") is None


def test_old_checkpoints_go_and_pinned_ones_stay(tmp_path: Path) -> None:
    for step in (2, 4, 5, 6, 7):
        save(tmp_path, step, max_to_keep=2, keep_every=5)
    assert [p.name for p in step_folders(tmp_path)] == ["step-00000005", "step-00000006", "step-00000007"]


def test_a_failed_save_leaves_the_previous_checkpoint_and_nothing_partial(tmp_path: Path) -> None:
    good = save(tmp_path, 3)

    def full_disk(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        Checkpointer(tmp_path, max_to_keep=3, keep_every=None).save(6, state(), {}, full_disk)
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == [good.name]
    assert problem_with(good) is None


@pytest.mark.parametrize("other", [None, "another"])
def test_nothing_is_saved_in_the_place_of_a_run_folder_that_was_moved_away(tmp_path: Path, other: str | None) -> None:
    run = tmp_path / "run"
    run.mkdir()
    writer = Checkpointer(run, max_to_keep=3, keep_every=None)
    writer.tidy(None)
    info = {"run": run_id(RunFolder(run))}
    writer.save(1, state(), info, lambda f: None)
    (run / RUN_ID).unlink()
    writer.save(2, state(), info, lambda f: None)  # that file alone is no reason to lose steps
    run.rename(tmp_path / "elsewhere")
    if other is not None:
        run.mkdir()
        run_id(RunFolder(run), other)
    before = sorted(tmp_path.rglob("*"))
    said = "was moved or removed: put it back" if other is None else f"another run now (another, this is {info['run']})"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        writer.save(3, state(), info, lambda f: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_left_overs_of_a_killed_save_are_removed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "ckpt" / ".tmp-00000009.1").mkdir(parents=True)
    save(tmp_path, 1)
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == ["step-00000001"]


def test_what_is_left_over_is_counted_from_the_checkpoint_that_was_verified(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        damage_bit(save(tmp_path, step, max_to_keep=None)) if step == 4 else save(tmp_path, step, max_to_keep=None)
    (tmp_path / "ckpt" / ".trash-step-00000001").mkdir()
    writer = Checkpointer(tmp_path, max_to_keep=2, keep_every=None)
    expected = [".trash-step-00000001", "step-00000001"]
    found = newest_valid(tmp_path)
    assert [p.name for p in writer.left_over(found)] == expected
    assert [p.name for p in writer.left_over(None)] == expected[:1]
    assert [p.name for p in writer.tidy(found)] == expected
    assert sorted(p.name for p in (tmp_path / "ckpt").iterdir()) == [f"step-0000000{step}" for step in (2, 3, 4)]


def test_files_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    final = save(tmp_path, 1)
    moved = events.index("rename")
    before = {Path(e).name for e in events[:moved]}
    assert {p.name for p in final.rglob("*") if p.is_file()} <= before
    assert Path(events[moved - 1]).name.startswith(".tmp-"), "the folder's entries are flushed last"
    assert Path(events[moved + 1]).name == "ckpt", "then the rename itself"


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older, newer = (write_of(tmp_path, step, run) for step, run in ((3, "mine"), (6, "theirs")))
    with caplog.at_level(logging.WARNING):
        call_it(tmp_path, "mine")
        assert newest_valid(tmp_path) == older
    assert f"{newer} is passed over: it was written by another run (theirs, this one is mine)" in caplog.text
    assert own_step_folders(tmp_path) == [older]
    call_it(tmp_path, "theirs")
    assert newest_valid(tmp_path) == newer
    call_it(tmp_path, "a third")
    with pytest.raises(CheckpointError, match="written by another run"):
        newest_valid(tmp_path)
    (tmp_path / "run_id.json").unlink()
    assert newest_valid(tmp_path) == newer, "who does not know which run it is takes the newest"


def call_it(run: Path, name: str) -> None:
    (run / "run_id.json").write_text(json.dumps({"wandb": name}))


def test_a_checkpoint_of_before_runs_had_names_is_taken(tmp_path: Path) -> None:
    call_it(tmp_path, "mine")
    assert newest_valid(save(tmp_path, 2).parents[1]) == tmp_path / "ckpt" / "step-00000002"


def write_of(run: Path, step: int, run_id: str) -> Path:
    info = {"counters": {"step": step, "samples": 8 * step}, "run": run_id}
    writer = Checkpointer(run, max_to_keep=3, keep_every=None)
    writer.tidy(None)
    return writer.save(step, state(step), info, lambda f: None).folder
