"""A recovery has everything the trainer has, comes closer to the whole model, and leaves a model every command reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main as dinov3
from dinov3.models.build import describe_backbone
from dinov3.system.rows import read_rows
from dinov3.weights.own import load_backbone, write_backbone
from tests.compress.models import vit
from tests.compress.recovery import tiny
from tests.faults.runs import Launcher, final_state
from tests.finetune.tiny import PREPROCESS, write_weights

MAIN = "tests.compress.recovery.tiny:main"


def test_killed_it_goes_on_bit_for_bit(runs: Launcher, pair: Path, tmp_path: Path) -> None:
    words = tiny.words(pair)
    assert runs.run(tmp_path / "whole", main=MAIN, words=words) == [0]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words, fault="step@4") == [-9]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words) == [0]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert final_state(killed) == final_state(whole)
    assert read_rows(killed / "evaluation.jsonl") == read_rows(whole / "evaluation.jsonl")
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()


@pytest.mark.nightly
def test_two_processes_learn_what_one_does(runs: Launcher, pair: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        words = tiny.words(pair, ranks=ranks)
        assert runs.run(tmp_path / str(ranks), ranks=ranks, main=MAIN, words=words) == [0] * ranks
    one, two = (read_rows(tmp_path / name / "evaluation.jsonl") for name in ("1", "2"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [0, 4, 8]
    for before, after in zip(one, two, strict=True):
        assert np.allclose([*before.values()], [*after.values()], rtol=1e-5, atol=1e-6)


def test_it_comes_closer_and_what_is_left_is_read_by_every_command(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = tiny.words(pair, optim__epochs=15, optim__lr=3e-3, evaluation__images="Synthetic:n=16:size=16:seed=5")
    assert dinov3(["finetune", "--output-dir", str(run), "task=recover", *words]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["after"]["distance"] < 0.6 * results["before"]["distance"]
    assert results["after"]["cls_cosine"] > results["before"]["cls_cosine"]
    assert "tokens against the teacher's: cls cosine" in capsys.readouterr().out
    small, back = (load_backbone(path) for path in (pair / "small.safetensors", run / "recovered"))
    assert _shapes(back) == _shapes(small)  # its widths are those of the cut model
    assert "recovered: trained towards the features of whole" in (run / "recovered" / "config.json").read_text()
    again = tmp_path / "again.safetensors"
    assert dinov3(["compress", str(run / "recovered"), "--quantize", "bf16", "--out", str(again)]) == 0


def _shapes(backbone: Any) -> Any:
    return describe_backbone(backbone)["config"]["block_shapes"]


def test_it_goes_on_without_the_compressed_file_but_not_without_the_teacher(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = tiny.prepare(tmp_path / "own")
    command = ["finetune", "--output-dir", str(tmp_path / "run"), "task=recover", *tiny.words(at)]
    assert dinov3([*command, "train.max_steps=4"]) == 0
    (at / "small.safetensors").unlink()
    assert dinov3(command) == 0
    (at / "whole").rename(at / "elsewhere")
    assert dinov3([*command, "--no-resume", f"model.weights={pair / 'small.safetensors'}"]) != 0
    assert str(at / "whole") in capsys.readouterr().err


def test_the_closest_weights_are_kept_and_a_run_that_brings_none_closer_says_so(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = tiny.words(pair, optim__lr=1.0, evaluation__period=100)  # far too fast
    assert dinov3(["finetune", "--output-dir", str(run), "task=recover", *words]) == 0
    assert "step 0 is the closest" in (said := capsys.readouterr().out)
    assert "try a lower optim.lr" in said
    results = json.loads((run / "results.json").read_text())
    assert results["step"] == 0
    assert results["before"] == results["after"]
    start, left = (load_backbone(path).state_dict() for path in (pair / "small.safetensors", run / "recovered"))
    assert all(torch.equal(start[name], left[name]) for name in start)


def test_a_run_that_has_lost_its_closest_weights_keeps_the_last(pair: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = tiny.words(pair, optim__lr=1.0)  # far too fast: the start is the closest
    command = ["finetune", "--output-dir", str(run), "task=recover", *words]
    assert dinov3([*command, "train.max_steps=4"]) == 0
    shutil.rmtree(run / "selected")
    assert dinov3(command) == 0
    results, rows = json.loads((run / "results.json").read_text()), read_rows(run / "evaluation.jsonl")
    assert results["step"] == rows[-1]["step"] == 8
    assert results["after"]["distance"] == rows[-1]["val_distance"]


def test_another_teacher_under_the_same_name_is_refused_when_a_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = tiny.prepare(tmp_path / "own")
    command = ["finetune", "--output-dir", str(tmp_path / "run"), "task=recover", *tiny.words(at)]
    assert dinov3([*command, "train.max_steps=4"]) == 0
    write_backbone(at / "whole", vit(seed=5, img_size=16), PREPROCESS)
    assert dinov3(command) == 78
    assert "holds other weights than when this run began" in capsys.readouterr().err


def test_unreadable_images_of_the_comparison_are_counted_and_too_many_are_refused(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        Image.fromarray(np.full((16, 16, 3), 30 * number, np.uint8)).save(images / f"{number}.png")
    (images / "3.png").write_bytes(b"no picture")
    words = tiny.words(pair, evaluation__images=images, train__max_steps=1)
    command = ["finetune", "--output-dir", str(tmp_path / "run"), "task=recover", *words]
    assert dinov3(command) == 78
    assert "evaluation.images: 1 images are unreadable, the first " in capsys.readouterr().err
    assert dinov3([*command, "data.max_bad_frac=0.2"]) == 0
    assert f"compared   7 images of {images}, 1 unreadable ones left out" in capsys.readouterr().out


def write_four_channels(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((4, 16, 16, 4), np.uint8)


def test_what_cannot_be_paired_is_one_line(pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, in_8_bits, four = write_weights(tmp_path / "other"), tmp_path / "int8.safetensors", tmp_path / "four.h5"
    data = ["--calibrate", tiny.IMAGES, "--images", "8", "--out", str(in_8_bits)]
    assert dinov3(["compress", str(pair / "small.safetensors"), "--quantize", "int8", *data]) == 0
    write_four_channels(four)
    capsys.readouterr()
    cases: dict[str, dict[str, object]] = {
        "model.teacher: its width is 16, that of model.weights 32": {"model__teacher": other},
        "model.teacher: it has": {"model__teacher": pair / "small.safetensors", "model__weights": pair / "whole"},
        "are the two exchanged?": {"model__teacher": pair / "small.safetensors", "model__weights": pair / "whole"},
        "model.weights: is as large as model.teacher": {"model__weights": pair / "whole"},
        "recover first, quantise then": {"model__weights": in_8_bits},
        "an image of 4 channels: this backbone takes 3": {"train__dataset_path": f"HDF5:root={four}"},
        "model.teacher: is missing": {"model__teacher": ""},
        "train.dataset_path: is missing": {"train__dataset_path": ""},
        "loss.cls_weight: is 0": {"loss__cls_weight": 0, "loss__patch_weight": 0},
        "model.size: 20 is not a multiple of the patch of 8 px": {"model__size": 20},
    }
    for line, changes in cases.items():
        out = tmp_path / "run"
        assert dinov3(["finetune", "--output-dir", str(out), "task=recover", *tiny.words(pair, **changes)]) == 78
        said = capsys.readouterr().err
        assert line in said
        assert len(said.strip().splitlines()) == 1
        assert not out.exists()
