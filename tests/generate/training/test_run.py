"""A diffusion transformer has everything the trainer has: resume bit for bit, faults, processes, warm start, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3.cli import main as dinov3
from dinov3.generate.buckets import Bucket
from dinov3.generate.training.model_file import load_dit
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from tests.faults.runs import Launcher, final_state, history, whole
from tests.generate.training.made import shard_set, words

MAIN = "dinov3.generate.training.command:main"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard_set(tmp_path_factory.mktemp("shards") / "set")


def run(runs: Launcher, shards: Path, out: Path, *more: str, ranks: int = 1, **options: Any) -> list[int]:
    return runs.run(out, ranks=ranks, main=MAIN, words=[*words(shards, 4 // ranks), *more], **options)


@pytest.fixture(scope="module")
def reference(runs: Launcher, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    assert run(runs, shards, out, "validation.period=5") == [0]
    return out


def test_every_row_has_loss_velocity_gradient_and_what_was_dropped(reference: Path) -> None:
    rows = read_rows(reference / "metrics.jsonl")
    assert len(rows) == 10
    for row in rows:
        assert row["flow_loss"] == row["total_loss"] > 0
        assert {"velocity_rms", "dit_grad_norm"} <= row.keys()
        assert sum(row[f"share_{name}"] for name in ("uncond", "text_only", "dino_only", "both")) == 1


def test_looks_are_in_the_rows_and_pictures(reference: Path) -> None:
    rows = read_rows(reference / "evaluation.jsonl")
    assert [row["step"] for row in rows] == [0, 5, 10]
    wanted = {"recon_mse", "recon_mse_32x64", "recon_mse_64x32", "swap_to_donor", "swap_to_self", "swap_ratio"}
    assert wanted | {"text_only_mse", "uncond_mse"} <= rows[-1].keys()
    assert len(list((reference / "pictures").glob("dit-*.png"))) == 6


@pytest.mark.parametrize(
    ("fault", "workers"),
    [("step@7", 0), ("committed@6", 3), pytest.param("shards@9=spoil", 1, marks=pytest.mark.nightly)],
)
def test_killed_it_goes_on_bit_for_bit_with_another_number_of_workers(
    runs: Launcher, shards: Path, reference: Path, tmp_path: Path, fault: str, workers: int
) -> None:
    out = tmp_path / "run"
    assert run(runs, shards, out, "validation.period=5", fault=fault) == [-9]
    assert run(runs, shards, out, "validation.period=5", f"train.num_workers={workers}") == [0]
    assert history(out) == history(reference)
    assert final_state(out) == final_state(reference)


@pytest.mark.nightly  # the trainer does it: tests/engine/test_second_task.py
def test_sigterm_is_a_save_and_85(runs: Launcher, shards: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(runs, shards, out, "validation.period=5", fault="step@4=term") == [85]
    assert 4 < whole(out)[-1] < 7
    assert run(runs, shards, out, "validation.period=5") == [0]
    assert final_state(out) == final_state(reference)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], marks=pytest.mark.nightly),
        ["train.gradient_accumulation_steps=2", "train.batch_size_per_gpu=1"],
    ],
)
def test_two_processes_learn_what_one_does(
    runs: Launcher, shards: Path, reference: Path, tmp_path: Path, more: list[str]
) -> None:
    out = tmp_path / "run"
    assert run(runs, shards, out, *more, ranks=2) == [0, 0]
    ours, theirs = (read_tensors(step_folders(o)[-1] / "state", prefix="dit.") for o in (out, reference))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in theirs)
    losses = [[row["flow_loss"] for row in read_rows(o / "metrics.jsonl")] for o in (out, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_product_is_the_average_and_has_all_that_sampling_needs(reference: Path) -> None:
    found = load_dit(reference, torch.device("cpu"))
    state = read_tensors(step_folders(reference)[-1] / "state", prefix="ema.")
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    assert found.facts["key"]["latents"] == "pixels"
    assert found.normaliser.get_buffer("patches_mean").any()


def test_recomputing_activations_and_alignment_are_the_same_run_and_another(
    runs: Launcher, shards: Path, reference: Path, tmp_path: Path
) -> None:
    assert run(runs, shards, tmp_path / "recomputed", "train.recompute=true") == [0]
    ours, theirs = (
        [row["flow_loss"] for row in read_rows(o / "metrics.jsonl")] for o in (tmp_path / "recomputed", reference)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    repa = ("repa.weight=0.5", "repa.block=1", "repa.hidden=16")
    assert run(runs, shards, tmp_path / "aligned", *repa) == [0]
    rows = read_rows(tmp_path / "aligned" / "metrics.jsonl")
    assert rows[-1]["repa_loss"] < rows[0]["repa_loss"]
    assert all("repa_grad_norm" in row for row in rows)


def test_a_start_from_text_alone_says_what_is_new_and_refuses_another_size(
    runs: Launcher, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "sees"
    assert run(runs, shards, alone, "transformer.features=false") == [0]
    warm = [f"warm_start.weights={alone}", "transformer.visual_bias=true"]
    assert run(runs, shards, out, *warm, fault="step@7") == [-9]
    assert run(runs, shards, out, *warm) == [0]
    report = json.loads((step_folders(out)[-1] / "train_state.json").read_text())["warm_start"]
    assert "blocks.0.qkv.weight" in report["loaded"]
    assert {"dino_patch_proj.weight", "null_dino_patch_token", "blocks.0.visual_bias"} <= set(report["new"])
    assert report["mismatched"] == report["unexpected"] == []
    capfd.readouterr()
    wide = ["dit", "train", "--output-dir", str(tmp_path / "wide"), *words(shards), *warm, "transformer.width=32"]
    assert dinov3(wide) == 78
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "of another shape, first" in told
    assert not (tmp_path / "wide").exists() or not any((tmp_path / "wide").iterdir())


def test_other_shards_are_refused_and_the_same_elsewhere_are_not(
    runs: Launcher, shards: Path, reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference, tmp_path / "run")
    shutil.copytree(shards, tmp_path / "moved")
    words_ = [*words(tmp_path / "moved"), "validation.period=5"]
    assert dinov3(["dit", "train", "--output-dir", str(tmp_path / "run"), *words_]) == 0
    other = shard_set(tmp_path / "other", {Bucket(64, 32): 9})
    assert dinov3(["dit", "train", "--output-dir", str(tmp_path / "run"), *words(other)]) == 78
    assert "holds other data" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("train.dataset_path=/nowhere", "no manifest.json"),
        ("conditions.both=0.6", "1 in sum"),
        ("transformer.heads=3", "must divide it"),
        ("repa.weight=1", "the transformer has 1 blocks"),
        ("start.run=x", "use warm_start.weights"),
        ("data.max_pixels=9", "does nothing for a diffusion transformer"),
        ("warm_start.weights=/nowhere", "no dit.safetensors"),
        ("validation.backbone=/nowhere", "/nowhere"),
        ("transformer.widht=8", "did you mean transformer.width?"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left(
    shards: Path, tmp_path: Path, word: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert dinov3(["dit", "train", "--output-dir", str(out), *words(shards), word]) == 78
    error = capfd.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not out.exists() or not any(out.iterdir())


def test_a_validation_set_of_other_texts_is_refused_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, other = shard_set(tmp_path / "shards"), shard_set(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["key"]["text"] = "t5:0123456789abcdef:4"  # of the same shape, and another language
    (other / "manifest.json").write_text(json.dumps(manifest))
    command = ["dit", "train", "--output-dir", str(tmp_path / "run"), *words(shards), f"validation.path={other}"]
    assert dinov3(command) == 78
    assert "validation.path: " in (error := capsys.readouterr().err)
    assert "differs from train.dataset_path in text: " in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
