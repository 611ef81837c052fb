"""``dinov3 finetune evaluate`` says what makes its scores mean something else than they seem to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3.cli import main as cli
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


def test_a_backbone_the_head_does_not_know_is_doubted_and_a_compressed_copy_is_not(
    run: Path, at: Path, tmp_path: Path
) -> None:
    stranger = tiny.write_weights(tmp_path / "stranger", depth=1)
    (said,) = notes(run, at, tmp_path / "foreign", "test", "--backbone", str(stranger))
    assert "is it a copy of this classifier's backbone?" in said
    copy = str(tmp_path / "copy.safetensors")
    assert cli(["compress", str(run / "classifier"), "--method", "mlp", "--amount", "0.9", "--out", copy]) == 0
    assert notes(run, at, tmp_path / "own", "test", "--backbone", copy) == []


def test_a_batch_larger_than_the_set_is_said_at_the_start(at: Path, tmp_path: Path) -> None:
    words = tiny.words(at, train__batch_size_per_gpu=50, optim__epochs=1, evaluation__test="null")
    assert tiny.main(["--output-dir", str(tmp_path / "run"), *words]) == 0
    assert "50 images a step of 40: some are seen several times a step" in (tmp_path / "run" / "run.log").read_text()
