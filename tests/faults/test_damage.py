"""F9, F11, F14, F20, F26: what a run refuses to continue from, and what it falls back to."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinov3.config.schema import Config
from dinov3.runs.checkpoint import load_tensors, read_tensors, save_tensors
from dinov3.runs.manifest import FORMAT_VERSION, NAME, describe_file, problem_with, read_train_state
from dinov3.runs.state import digest
from dinov3.runs.step_folders import CheckpointError, newest_valid, step_folders
from dinov3.train.command import main
from tests.faults.conftest import Reference
from tests.faults.runs import Launcher, assert_same, final_state, history, whole
from tests.train.tiny import overrides

FORMAT_1 = Path(__file__).parent / "data" / "format-1"


@pytest.fixture
def run(reference: Reference, tmp_path: Path) -> Path:
    """A copy of a run with checkpoints 9 and 12; it is asked to go on."""
    out = tmp_path / "run"
    shutil.copytree(reference(1), out)
    return out


def shard(folder: Path) -> Path:
    return next((folder / "state").iterdir())


def flip_a_bit(folder: Path) -> None:
    content = bytearray(shard(folder).read_bytes())
    content[-100] ^= 4
    shard(folder).write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit flip": (flip_a_bit, "state/shard-00001-model-00001-of-00001.safetensors is damaged"),
    "truncated": (
        lambda f: os.truncate(shard(f), 999),
        "state/shard-00001-model-00001-of-00001.safetensors has 999 bytes",
    ),
    "missing": (lambda f: shard(f).unlink(), "state/shard-00001-model-00001-of-00001.safetensors is missing"),
    "empty manifest": (lambda f: (f / NAME).write_text(""), "manifest.json is damaged"),
    "no manifest": (lambda f: (f / NAME).unlink(), "manifest.json is missing"),
    "empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], "manifest.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_f11_a_damaged_newest_checkpoint_is_passed_over_with_one_warning_and_the_run_ends_the_same(
    runs: Launcher, reference: Reference, run: Path, damage: str
) -> None:
    act, reason = DAMAGES[damage]
    act(run / "ckpt" / "step-00000012")
    assert runs.run(run) == [0]
    lines = [line for line in run.with_name("run.log").read_text().splitlines() if "is passed over" in line]
    assert len(lines) == 1
    assert "step-00000012" in lines[0]
    assert reason in lines[0]
    assert_same(run, reference(1))


def test_f11_when_all_are_damaged_the_run_ends_and_does_not_start_again(runs: Launcher, run: Path) -> None:
    for folder in step_folders(run):
        flip_a_bit(folder)
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    assert runs.run(run) == [74]
    assert "no checkpoint can be read" in run.with_name("run.log").read_text()
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


def test_f11_a_checkpoint_that_was_asked_for_has_no_stand_in(runs: Launcher, run: Path) -> None:
    wanted = run / "ckpt" / "step-00000009"
    flip_a_bit(wanted)
    assert runs.run(run, "--resume-from", str(wanted)) == [74]
    text = run.with_name("run.log").read_text()
    assert "step-00000009: state/shard-00001-model-00001-of-00001.safetensors is damaged" in text
    assert whole(run) == [12]


def test_going_back_to_a_checkpoint_moves_later_ones_aside_and_the_same_command_goes_on_from_there(
    runs: Launcher, reference: Reference, run: Path
) -> None:
    back = ("--resume-from", str(run / "ckpt" / "step-00000009"))
    assert runs.run(run, *back, train__max_steps=11) == [0]
    assert "resumed    at step 9" in run.with_name("run.log").read_text()
    assert [p.name for p in (run / "before-1" / "ckpt").iterdir()] == ["step-00000012"]
    assert runs.run(run, *back) == [0]
    assert "resumed    at step 11" in run.with_name("run.log").read_text()
    assert history(run) == history(reference(1))


def test_bad_batches_are_jumped_over_after_going_back(runs: Launcher, reference: Reference, run: Path) -> None:
    back = ("--resume-from", str(run / "ckpt" / "step-00000009"))
    assert runs.run(run, *back, data__skip_steps="[[9,10]]") == [0]
    steps = [row["iteration"] for row in history(run)]
    assert steps == [*range(9), 11], "two batches are drawn and left"
    assert history(run)[-1]["samples"] == 96
    assert history(run)[-1]["total_loss"] != history(reference(1))[-1]["total_loss"]
    assert read_train_state(step_folders(run)[-1])["counters"]["jumped_steps"] == 2
    assert "skip_steps" in next((run / "config_history").iterdir()).read_text()


def test_f9_another_global_batch_is_refused_with_both_values_and_allowed_on_request(runs: Launcher, run: Path) -> None:
    change = {"train__batch_size_per_gpu": 4, "optim__epochs": 4}
    assert runs.run(run, **change) == [78]
    assert "train.batch_size_per_gpu: this run was started with 8, now it is 4" in run.with_name("run.log").read_text()
    assert runs.run(run, resume__allow="[train.batch_size_per_gpu]", **change) == [0]
    assert [row["samples"] for row in history(run)][11:14] == [96, 100, 104], "the position counts images"


def test_f14_a_data_set_that_has_changed_is_refused(runs: Launcher, run: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(runs.images, images)
    same_path = {"train__dataset_path": images, "resume__allow": "[train.dataset_path]", "optim__epochs": 4}
    assert runs.run(run, train__max_steps=13, **same_path) == [0]
    (images / "000.jpg").unlink()
    assert runs.run(run, **{**same_path, "resume__allow": "[]", "train__dataset_path": images}) == [78]
    assert "train.dataset_path" in run.with_name("run.log").read_text().splitlines()[-1]


def test_f14_what_may_change_is_recorded_beside_the_first_config(runs: Launcher, run: Path) -> None:
    first = (run / "config.yaml").read_text()
    assert runs.run(run, optim__epochs=4, train__max_steps=13, train__num_workers=1, checkpointing__period=5) == [0]
    assert (run / "config.yaml").read_text() == first
    recorded = (run / "config_history" / "0001.yaml").read_text()
    assert "num_workers: 1" in recorded
    assert "checkpointing.period: 3 -> 5" in (run / "run.log").read_text()


# ---------------------------------------------------------------- F20: hostile files


class Canary:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def reseal(folder: Path) -> None:
    """A manifest that agrees with the files, as an attacker would write it."""
    files = {
        p.relative_to(folder).as_posix(): describe_file(p) for p in folder.rglob("*") if p.is_file() and p.name != NAME
    }
    (folder / NAME).write_text(
        json.dumps({"format_version": FORMAT_VERSION, "step": int(folder.name[-8:]), "files": files})
    )


def test_f20_pickles_in_a_checkpoint_are_never_opened(
    runs: Launcher, reference: Reference, run: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    folder = run / "ckpt" / "step-00000012"
    for name in ("state/.metadata", "state/__0_0.distcp", "rng.pkl", "state/x.pth"):
        (folder / name).write_bytes(pickle.dumps({"x": Canary(canary)}))
    reseal(folder)
    assert newest_valid(run) == folder
    assert read_tensors(folder / "state", prefix="model_ema.")
    assert runs.run(run, optim__epochs=4, train__max_steps=13) == [0], "what it holds besides loads"
    assert not canary.exists()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (struct.pack("<Q", 2**60) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 10) + b"not json..", "not a safetensors file"),
        (
            struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,9999999]}}    ',
            "not a safetensors file",
        ),
    ],
    ids=["oversized header", "no header", "tensor outside the file"],
)
def test_f20_a_hostile_tensor_file_is_refused_although_its_manifest_agrees(
    run: Path, header: bytes, message: str
) -> None:
    folder = run / "ckpt" / "step-00000012"
    shard(folder).write_bytes(header)
    reseal(folder)
    assert message in (problem_with(folder) or "")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "state/../../x"])
def test_f20_a_manifest_that_points_outside_is_refused(run: Path, name: str) -> None:
    folder = run / "ckpt" / "step-00000012"
    manifest = json.loads((folder / NAME).read_text())
    manifest["files"][name] = {"size": 1, "sha256": ""}
    (folder / NAME).write_text(json.dumps(manifest))
    assert "outside the checkpoint" in (problem_with(folder) or "")


def test_f20_a_file_that_the_manifest_does_not_name_is_not_read(run: Path) -> None:
    folder = run / "ckpt" / "step-00000012"
    save_file({"extra": torch.zeros(1)}, folder / "state" / "extra.safetensors")
    assert "state/extra.safetensors is not in manifest.json" in (problem_with(folder) or "")


def test_f20_sharding_notes_that_lie_are_an_error_of_one_line(run: Path) -> None:
    folder = run / "ckpt" / "step-00000012"
    tensors = read_tensors(folder / "state", prefix="")
    notes = {"DCP_SHARDING_INFO": json.dumps({k: {"saved_offsets": [10**9] * v.ndim} for k, v in tensors.items()})}
    save_file(tensors, shard(folder), metadata=notes)
    with pytest.raises(CheckpointError, match="claims to hold"):
        load_tensors(tensors, folder / "state")
    save_file(tensors, shard(folder), metadata={"DCP_SHARDING_INFO": "{}"})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(tensors, folder / "state")


# ---------------------------------------------------------------- F26: other versions


TINIEST = {
    "student__embed_dim": 16,
    "student__depth": 1,
    "student__num_heads": 1,
    "student__patch_size": 4,
    "student__n_storage_tokens": 1,
    "crops__global_crops_size": 16,
    "crops__local_crops_size": 8,
    **{f"{head}__head_{k}": v for head in ("dino", "ibot") for k, v in
       {"n_prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4, "nlayers": 2}.items()},
    "evaluation__pictures": "false",
}  # fmt: skip


FORMAT_1_STATE = (
    "7118a85b2d07d8bae9fb8bd3d51703cc6558d815f873018be68bb09faa580c86"  # names and bytes, as it was written
)


def test_f26_the_state_of_the_first_format_is_read_to_the_last_bit() -> None:
    state = read_tensors(step_folders(FORMAT_1)[0] / "state", prefix="")
    assert len(state) == 159
    assert digest(state) == FORMAT_1_STATE


@pytest.mark.usefixtures("one_thread")
def test_f26_a_run_of_the_first_format_goes_on_as_the_same_state_written_today(tmp_path: Path) -> None:
    """What another processor computes from it differs in the last bits, and after three steps by a hundredth."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(FORMAT_1, old)
    assert main(["--output-dir", str(new), *overrides(**TINIEST, train__max_steps=2)]) == 0
    folder = step_folders(new)[-1]
    replaced = read_tensors(step_folders(FORMAT_1)[0] / "state", prefix="")
    assert set(replaced) == set(read_tensors(folder / "state", prefix=""))
    shutil.rmtree(folder / "state")
    save_tensors(replaced, folder / "state")
    reseal(folder)
    for out in (old, new):
        assert main(["--output-dir", str(out), *overrides(**TINIEST, train__max_steps=4)]) == 0
    assert history(old)[:2] == history(FORMAT_1)
    assert [row["iteration"] for row in history(old)] == [0, 1, 2, 3]
    assert history(old)[2:] == history(new)[2:]
    assert final_state(old) == final_state(new)
    assert json.loads((step_folders(old)[-1] / NAME).read_text())["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (FORMAT_VERSION + 1, f"format version {FORMAT_VERSION + 1}"),
        (0, "format version 0"),
        (-3, "format_version: -3, not a whole number"),
    ],
)
def test_f26_a_format_this_program_does_not_know_is_refused(
    tmp_path: Path, version: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(FORMAT_1, out)
    path = step_folders(out)[0] / NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    assert problem in (problem_with(path.parent) or "")
    assert main(["--output-dir", str(out), *overrides(**TINIEST)]) == 74
    assert "no checkpoint can be read" in capsys.readouterr().err


def test_f26_tensors_of_another_number_format_are_refused_or_cast_never_garbage(run: Path) -> None:
    folder = run / "ckpt" / "step-00000012"
    stored = read_tensors(folder / "state", prefix="")
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in stored.items()}
    load_tensors(halves, folder / "state")
    assert all(torch.equal(halves[k], stored[k].to(halves[k].dtype)) for k in stored)


def test_the_watched_settings_have_defaults_that_a_cluster_can_live_with() -> None:
    cfg = Config()
    assert cfg.train.watchdog_seconds >= 600, "ten minutes: a step waits for a slow file system"
    assert cfg.checkpointing.on_error == "abort"
