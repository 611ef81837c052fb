"""``dinov3 finetune evaluate`` says what makes its scores mean something else than they seem to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from dinov3.cli import main as cli
from dinov3.system.rows import read_rows
from tests.finetune import tiny


@pytest.fixture(scope="module")
def run(at: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished classifier."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    assert tiny.main(["--output-dir", str(folder), *tiny.words(at, optim__epochs=1)]) == 0
    return folder


def notes(run: Path, at: Path, out: Path, split: str, *words: str) -> list[str]:
    data = f"PCam:root={at}/pcam:split={split}"
    assert cli(["finetune", "evaluate", str(run), "--data", data, "--out", str(out), *words]) == 0
    found: list[str] = json.loads((out / "results.json").read_text())["notes"]
    return found


def test_images_it_was_trained_on_are_named_and_others_are_not(
    run: Path, at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notes(run, at, tmp_path / "test", "test") == []
    (said,) = notes(run, at, tmp_path / "train", "train")
    assert "are the images it was trained on" in said
    assert said in capsys.readouterr().out
    (said,) = notes(run, at, tmp_path / "valid", "valid")
    assert "that selected its weights" in said


def test_a_set_of_one_class_is_scored_without_curves_and_says_so(
    run: Path, at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(at / "pcam", tmp_path / "pcam")
    for path in copy.glob("*test_y.h5"):
        with h5py.File(path, "r+") as file:
            file["y"][...] = 0
    words = ["finetune", "evaluate", str(run), "--data", f"PCam:root={copy}:split=test", "--out", str(tmp_path / "out")]
    assert cli(words) == 0
    assert "are of one class: AUROC, AUPRC and curves are not defined" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.csv", "results.json"]


def test_scores_do_not_go_into_the_folder_of_a_run(run: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "results.json").read_bytes()
    assert cli(["finetune", "evaluate", str(run), "--data", f"PCam:root={at}/pcam:split=test", "--out", str(run)]) == 78
    assert "is the folder of a run, whose files would be lost: give another" in capsys.readouterr().err
    assert (run / "results.json").read_bytes() == before


def test_the_positive_class_is_said_and_a_finished_run_names_what_was_changed(
    at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output-dir", str(tmp_path / "run"), *tiny.words(at, optim__epochs=1, evaluation__bootstrap=0)]
    assert tiny.main(command) == 0
    assert "positive   '1', not '0'" in (tmp_path / "run" / "run.log").read_text()
    capsys.readouterr()
    assert tiny.main([*command, "evaluation.tta=true"]) == 0
    assert "note: evaluation.tta is True now; what is there was made with False" in capsys.readouterr().out


def test_weights_that_became_nan_are_the_worst(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny.words(at, optim__epochs=1, optim__lr=1e30, evaluation__bootstrap=0, evaluation__period=1)
    assert tiny.main(["--output-dir", str(tmp_path / "run"), *words]) == 0
    assert "selected step 0 of 4" in capsys.readouterr().out
    rows = read_rows(tmp_path / "run" / "evaluation.jsonl")
    assert [row["val_AUROC"] is None for row in rows[-2:]] == [True, True]


def test_a_backbone_the_head_does_not_know_is_doubted_and_a_compressed_copy_is_not(
    run: Path, at: Path, tmp_path: Path
) -> None:
    stranger = tiny.write_weights(tmp_path / "stranger", depth=1)
    (said,) = notes(run, at, tmp_path / "foreign", "test", "--backbone", str(stranger))
    assert "is it a copy of this head's backbone?" in said
    copy = str(tmp_path / "copy.safetensors")
    assert cli(["compress", str(run / "classifier"), "--method", "mlp", "--amount", "0.9", "--out", copy]) == 0
    assert notes(run, at, tmp_path / "own", "test", "--backbone", copy) == []


def test_a_batch_larger_than_the_set_is_said_at_the_start(at: Path, tmp_path: Path) -> None:
    words = tiny.words(at, train__batch_size_per_gpu=50, optim__epochs=1, evaluation__test="null")
    assert tiny.main(["--output-dir", str(tmp_path / "run"), *words]) == 0
    assert "50 images a step of 40: some are seen several times a step" in (tmp_path / "run" / "run.log").read_text()
