"""``dinov3 finetune evaluate`` says what makes its scores mean something else than they seem to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dinov3.cli import main as cli
from dinov3.system.rows import read_rows
from dinov3.weights.own import read_source
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


@pytest.fixture(scope="module")
def torn(at: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in class folders; two of five of class 1 cannot be read."""
    root = tmp_path_factory.mktemp("torn")
    for label in ("0", "1"):
        (root / label).mkdir()
        for number in range(5):
            pixels = np.random.default_rng(number + 10 * int(label)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
    for number in (1, 3):
        (root / "1" / f"{number}.png").write_bytes(b"torn")
    return root


def test_images_that_cannot_be_read_are_said_with_their_classes_wherever_the_scores_are(
    run: Path, torn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "evaluate", str(run), "--data", str(torn), "--out", str(tmp_path / "out")]
    assert cli([*words, "--max-bad-frac", "0.3"]) == 0
    (note,) = json.loads((tmp_path / "out" / "results.json").read_text())["notes"]
    assert note.startswith(f"note: {torn}: 2 of 10 images are unreadable and in no score (2 of 5 of 1); the first, ")
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("method", ["fullft", "head_only"])
def test_a_run_says_what_it_could_not_read_and_refuses_too_much_of_it_before_it_trains(
    at: Path, torn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    settings = {
        "optim__epochs": 1,
        "evaluation__bootstrap": 0,
        "model__method": method,
        "train__dataset_path": str(torn),
    }
    settings |= {"augment__preset": "none"} if method == "head_only" else {}
    words = ["--output-dir", str(tmp_path / "run"), *tiny.words(at, **settings, evaluation__test=str(torn))]
    words = [word for word in words if not word.startswith(("evaluation.validation", "evaluation.period"))]
    test = shutil.copytree(torn, tmp_path / "test")
    for file in sorted(test.glob("*/*.png")):  # other images
        if len(file.read_bytes()) > 4:
            Image.open(file).rotate(90).save(file)
    words = [word.replace(f"evaluation.test={torn}", f"evaluation.test={test}") for word in words]
    assert tiny.main(words) == 78
    assert f"evaluation.test: {test}: 2 of 10 images cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "run" / "ckpt").exists()
    assert tiny.main([*words, "data.max_bad_frac=0.5"]) == 0
    said = capsys.readouterr().out
    assert f"note: {test}: 2 of 10 images are unreadable and in no score (2 of 5 of 1); the first, " in said
    assert "2 images were unreadable and left out: listed with the reasons in" in said
    assert cli(["finetune", "report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert f"run: note: {test}: 2 of 10 images are unreadable" in capsys.readouterr().out
    assert "2 of 10 images are unreadable" in (tmp_path / "page.html").read_text()


def test_the_backbone_of_a_fine_tuned_run_is_weights_to_start_from(run: Path) -> None:
    started, classifier = read_source(run), read_source(run / "classifier")
    assert started.backbone.keys() == classifier.backbone.keys()
    assert len(started.backbone) > 10
    assert started.heads == {}


@pytest.mark.parametrize("words", [["report"], ["evaluate", "run"], ["export", "run"], ["export"]])
def test_a_word_without_what_it_needs_is_a_matter_of_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["finetune", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
