from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dinov3 import __version__
from dinov3.data.sources.synthetic import Synthetic
from dinov3.engine import trainer
from dinov3.eval.online.scene import LabelledPart, Scene
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.folder import RunFolder
from dinov3.runs.lock import RunLock
from dinov3.runs.recorded import config_in_force
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.own import load_backbone
from tests.train.tiny import TOTAL_STEPS, command

TIMES = ("images_per_second", "data_wait", "checkpoint_seconds", "checkpoint_blocked_seconds", "checkpoint_bytes")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    out = tmp_path_factory.mktemp("reference")
    assert main(command(out, evaluation__pictures="true")) == 0
    return out


def numbers(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(out / "metrics.jsonl")]


def final_state(out: Path) -> str:
    return digest(read_tensors(step_folders(out)[-1] / "state", prefix=""))


def assert_identical(out: Path, reference: Path) -> None:
    assert numbers(out) == numbers(reference)
    assert step_folders(out)[-1].name == step_folders(reference)[-1].name
    assert final_state(out) == final_state(reference)


def test_a_run_logs_every_step_once_with_every_term(reference: Path) -> None:
    rows = numbers(reference)
    assert [r["iteration"] for r in rows] == list(range(TOTAL_STEPS))
    assert [r["samples"] for r in rows] == [8 * (i + 1) for i in range(TOTAL_STEPS)]
    expected = {"total_loss", "dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss", "lr", "wd"}
    expected |= {"mom", "teacher_temp", "backbone_grad_norm", "dino_head_grad_norm", "ibot_head_grad_norm"}
    assert all(expected <= set(r) for r in rows)
    weighted = [
        r["dino_global_crops_loss"] * 2 / 6
        + r["dino_local_crops_loss"] * 4 / 6
        + r["ibot_loss"]
        + 0.2 * r["koleo_loss"]
        for r in rows
    ]
    assert [r["total_loss"] for r in rows] == pytest.approx(weighted, rel=1e-5)


def test_speed_is_that_of_the_steps_just_trained(reference: Path) -> None:
    rows = read_rows(reference / "metrics.jsonl")
    assert all(0 < r["data_wait"] < 1 for r in rows), "also after the pauses at steps 3, 6 and 9"
    assert all(r["images_per_second"] > 0 for r in rows)


def test_every_file_of_a_run_is_for_those_who_may_read_a_new_file_of_the_user(reference: Path, tmp_path: Path) -> None:
    (new := tmp_path / "new").touch()
    written = [p for p in reference.rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert {p.suffix for p in written} >= {".safetensors", ".json", ".jsonl", ".png"}
    assert {p.name: oct(p.stat().st_mode) for p in written if p.stat().st_mode != new.stat().st_mode} == {}


def test_a_stopped_run_continues_bit_for_bit(reference: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path, train__max_steps=5)) == 0
    assert step_folders(tmp_path)[-1].name == "step-00000005"
    assert main(command(tmp_path)) == 0
    assert_identical(tmp_path, reference)


def test_a_signal_saves_and_the_same_command_continues_bit_for_bit(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.train_step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_step", interrupted)
        assert main(command(tmp_path)) == 85
    assert len(numbers(tmp_path)) in (7, 8), "at most one more step after the signal"
    assert main(command(tmp_path)) == 0
    assert_identical(tmp_path, reference)


def test_the_number_of_workers_changes_nothing(reference: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path, train__num_workers=2)) == 0
    assert numbers(tmp_path) == numbers(reference)


def test_a_run_that_ended_before_its_first_checkpoint_leaves_no_false_record(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"train": {"seed": 5}}')
    (tmp_path / "config.yaml").write_text("train: {seed: 5}")
    assert main(command(tmp_path, train__max_steps=1)) == 0
    assert "seed: 0" in (tmp_path / "config.yaml").read_text()
    assert main(command(tmp_path, train__max_steps=2)) == 0, "the record is that of this run"


def test_two_runs_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock(tmp_path):
        assert main(command(tmp_path)) == 75
    assert f"{tmp_path}: process {os.getpid()} on " in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["a file", "a file/below"])
def test_an_output_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").touch()
    assert main(command(tmp_path / name)) == 74
    error = capsys.readouterr().err
    assert "a file" in error
    assert error.count("\n") == 1


def test_arguments_may_stand_on_both_sides_of_options(tmp_path: Path) -> None:
    first, *rest = [a for a in command(tmp_path, train__max_steps=1) if "=" in a]
    assert main([first, "--output-dir", str(tmp_path), *rest]) == 0


def test_another_seed_is_another_run(reference: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path, train__seed=1, train__max_steps=2)) == 0
    assert numbers(tmp_path)[0]["total_loss"] != numbers(reference)[0]["total_loss"]


def test_a_finished_run_says_so_and_changes_nothing(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*")}
    assert main(command(reference)) == 0
    assert "finished at step 12" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in reference.rglob("*")} == before


def test_no_resume_starts_again_and_loses_nothing(reference: Path, tmp_path: Path) -> None:
    assert main(command(tmp_path, train__max_steps=3)) == 0
    first = numbers(tmp_path)
    assert main(command(tmp_path, "--no-resume", train__max_steps=2)) == 0
    assert numbers(tmp_path) == first[:2]
    assert numbers(tmp_path / "before-1") == first
    assert step_folders(tmp_path / "before-1")


def test_the_exported_backbone_is_the_ema_teacher(reference: Path) -> None:
    backbone = load_backbone(reference)
    stored = read_tensors(step_folders(reference)[-1] / "state", prefix="model_ema.backbone.")
    assert digest(dict(backbone.state_dict())) == digest(stored)
    assert not backbone.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__seed": 5}, "train.seed: this run was started with 0, now it is 5"),
        ({"student__depth": 3}, "student.depth: this run was started with 2, now it is 3"),
        ({"train__batch_size_per_gpu": 4}, "train.batch_size_per_gpu: this run was started with 8, now it is 4"),
    ],
)
def test_a_run_is_not_continued_as_another_one(
    reference: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(reference.rglob("*"))
    assert main(command(reference, optim__epochs=4, **changes)) == 78
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(reference.rglob("*")) == before


def test_what_may_change_is_said_and_written_to_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, train__max_steps=2)) == 0
    assert "changed" not in capsys.readouterr().out
    assert main(command(tmp_path, train__max_steps=4, optim__lr=0.002)) == 0
    changed = "  changed    optim.lr: 0.001 -> 0.002 since the start\n"
    assert changed in capsys.readouterr().out
    assert changed in (tmp_path / "run.log").read_text()
    assert "max_steps: 4" in (tmp_path / "config_history" / "0001.yaml").read_text()
    assert "max_steps: 2" in (tmp_path / "config.yaml").read_text()
    assert main(command(tmp_path, train__max_steps=6)) == 0
    assert (config_in_force(RunFolder(tmp_path)).now or {})["optim"]["lr"] == 0.001, "as it was at the start"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("/nowhere/at/all", "/nowhere/at/all"),
        ("Synthetic:n=7", "7 images, fewer than one batch of 8"),
        ("Sinthetic", "Synthetic"),
    ],
)
def test_unusable_data_ends_the_run_before_anything_is_written(
    tmp_path: Path, dataset: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, train__dataset_path=dataset)) == 78
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_mixture_is_continued_bit_for_bit_and_not_with_other_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "[{{path: 'Synthetic:n=30:size=40', weight: 3}}, {{path: 'Synthetic:n=9:size=48:seed=2', weight: {}}}]"
    mixed = {"train__dataset_path": weights.format(1)}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(whole, **mixed)) == 0
    printed = capsys.readouterr().out
    assert " 75.0 %             30 images  Synthetic:n=30:size=40\n" in printed
    assert "  data       2 data sets: 39 images" in printed
    assert main(command(parts, train__max_steps=5, **mixed)) == 0
    assert main(command(parts, train__dataset_path=weights.format(2))) == 78
    assert "train.dataset_path: this run was started with" in capsys.readouterr().err.splitlines()[-1]
    assert main(command(parts, **mixed)) == 0
    assert_identical(parts, whole)


def test_images_of_the_wrong_channels_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, four = tmp_path / "run", {"student__in_chans": 4, "crops__rgb_mean": [0.5] * 4, "crops__rgb_std": [0.2] * 4}
    plain = {"crops__color_jitter_prob": 0, "crops__grayscale_prob": 0, "crops__solarize_prob_global_2": 0}
    assert main(command(out, **four, **plain)) == 78
    error = capsys.readouterr().err
    assert error == "error: the images have 3 channels, student.in_chans is 4: set student.in_chans=3\n"
    assert not out.exists()


def test_a_truncated_shard_is_named_in_the_record_of_bad_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shard, source = tmp_path / "cut.tar", Synthetic(n=12, size=40)
    with tarfile.open(shard, "w") as tar:
        for index in range(12):
            picture = io.BytesIO()
            Image.fromarray(source.read(index)).save(picture, "png")
            member = tarfile.TarInfo(f"{index:03}.png")
            member.size = picture.tell()
            picture.seek(0)
            tar.addfile(member, picture)
    data = shard.read_bytes()
    shard.write_bytes(data[: data.index(b"011.png\0") + 600])  # its header and a little more
    for out in (tmp_path / "listed", tmp_path / "list kept"):
        assert main(command(out, train__dataset_path=f"Tar:root={shard}", train__max_steps=1)) == 0
        (row,) = read_rows(out / "bad_samples.jsonl")
        assert row["name"] == str(shard)
        assert row["reason"].startswith("damaged, 11 images before the damage are used: ")


def test_knn_of_the_ema_backbone_is_measured_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    part = Scene._part

    def counted(scene: Scene, text: str, limit: int | None) -> LabelledPart:
        looked_at.append(scene.step)
        return part(scene, text, limit)

    monkeypatch.setattr(Scene, "_part", counted)
    knn = {"evaluation__knn__train": "Synthetic:n=40:size=40", "evaluation__knn__test": "Synthetic:n=20:size=40:seed=9"}
    more = {"evaluation__knn__linear": "true", "evaluation__knn__linear_epochs": 2}
    more |= {"evaluation__pictures": "true", "evaluation__pictures_period": 2}
    assert main(command(tmp_path, train__max_steps=2, **knn, **more)) == 0
    rows = rows_of_evaluation(tmp_path)
    assert [r["step"] for r in rows] == [0, 2]
    assert looked_at == [0, 0, 2, 2], "the picture of neighbours is drawn from features that were measured"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert f"{100 * rows[0]['knn_accuracy']:.1f} % untrained" in last
    assert f"{100 * rows[1]['knn_accuracy']:.1f} % after 2 steps" in last
    for row in rows:
        assert 0 <= row["linear_accuracy"] <= 1
        assert 1 <= row["rankme"] <= 64
        assert 0 < row["cls_spread"] < 2
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["pca-00000000.png", "pca-00000002.png"]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "pca.png").stat().st_size > 1000
    assert (tmp_path / "neighbours.png").stat().st_size > 1000


def rows_of_evaluation(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "evaluation.jsonl")


def poison(monkeypatch: pytest.MonkeyPatch, bad_steps: set[int], what: str) -> dict[int, str]:
    """Make the loss or a gradient of some steps non-finite; returns the state's digest before and after each step."""
    digests: dict[int, str] = {}
    real = SSLMetaArch.forward_backward

    def bad(self: Any, batch: Any, *, teacher_temp: float, iteration: int) -> Any:
        digests[iteration] = digest(dict(self.state_dict()))
        loss, terms = real(self, batch, teacher_temp=teacher_temp, iteration=iteration)
        if iteration in bad_steps and what == "loss":
            loss = loss * torch.nan
        if iteration in bad_steps and what == "gradient":
            next(self.student["ibot_head"].parameters()).grad.view(-1)[0] = torch.inf
        return loss, terms

    monkeypatch.setattr(SSLMetaArch, "forward_backward", bad)
    return digests


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = poison(monkeypatch, {2}, what)
    assert main(command(tmp_path, train__max_steps=5)) == 0
    assert digests[3] == digests[2]
    assert digests[4] != digests[3]
    assert [r["skipped_steps"] for r in numbers(tmp_path)] == [0, 0, 1, 1, 1]


def test_a_run_whose_last_step_was_skipped_is_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {3, 4}, "loss")
    assert main(command(tmp_path, train__max_steps=5)) == 0
    assert step_folders(tmp_path)[-1].name == "step-00000005"


def test_a_save_that_a_skipped_step_prevents_is_made_after_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, {1, 2}, "loss")
    assert main(command(tmp_path, train__max_steps=7)) == 0
    assert [folder.name[-1] for folder in step_folders(tmp_path)] == ["4", "6", "7"]
    assert capsys.readouterr().err.count("step 3 is not saved: its update was skipped") == 1


def test_going_back_to_a_checkpoint_beyond_the_end_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "long", train__max_steps=4)) == 0
    last = step_folders(tmp_path / "long")[-1]
    assert main(command(tmp_path / "short", "--resume-from", str(last), train__max_steps=3)) == 78
    assert f"{last} is at step 4, this run ends at 3: give an earlier one" in capsys.readouterr().err


def test_another_split_of_the_same_batch_continues_and_another_batch_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, train__max_steps=3)) == 0
    split = {"train__batch_size_per_gpu": 4, "train__gradient_accumulation_steps": 2}
    assert main(command(tmp_path, train__max_steps=4, **split)) == 0
    assert "changed    effective batch" not in capsys.readouterr().out
    assert main(command(tmp_path, train__max_steps=5, train__batch_size_per_gpu=4)) == 78
    assert "train.batch_size_per_gpu" in capsys.readouterr().err
    allowed = {"resume__allow": "[train.batch_size_per_gpu]", "train__batch_size_per_gpu": 4}
    assert main(command(tmp_path, train__max_steps=5, **allowed)) == 0
    assert "changed    effective batch: 8 -> 4 images since the start" in capsys.readouterr().out


def test_too_many_of_them_end_the_run_with_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, set(range(4, 100)), "loss")
    assert main(command(tmp_path, nan__max_consecutive=2)) == 70
    assert "3 steps in a row were not finite" in capsys.readouterr().err
    assert step_folders(tmp_path)[-1].name == "step-00000003", "nothing is saved in a streak of skipped steps"
    state = read_tensors(step_folders(tmp_path)[-1] / "state", prefix="")
    assert all(bool(torch.isfinite(t).all()) for t in state.values())


def test_progress_comes_below_the_start_up_block(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dinov3.train", *command(tmp_path / "run", train__max_steps=2)]
    log = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
    assert log.startswith(f"dinov3 {__version__} in {tmp_path}/run\n")
    assert log.index("2 steps of 8 images") < log.index("step 1/2")
