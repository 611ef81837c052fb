from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dense.conftest import Evaluate, save

RANGE = ["low=0.1", "high=8"]


@pytest.mark.parametrize("probe", ["ridge", "sgd"])
def test_a_distance_that_the_colour_tells_is_learnt(
    evaluate: Evaluate, quarters: Path, probe: str, tmp_path: Path
) -> None:
    picture = tmp_path / "sheet.png"
    words = [f"probe={probe}", "steps=120", "warmup=5", "lr=0.03", *RANGE]
    code, row = evaluate("depth", quarters, *words, "--pictures", str(picture))
    assert code == 0
    assert row["scores"][0]["rmse"] < 0.7  # the mean of the depths is off by 1.1
    assert row["scores"][0]["a1"] > 0.7
    assert row["images"] == {"train": 16, "test": 4}
    assert Image.open(picture).size[0] > 300


def test_random_crops_learn_too(evaluate: Evaluate, quarters: Path) -> None:
    words = ["steps=100", "warmup=5", "lr=0.03", "crop_height=24", "crop_width=32", "eigen=false", "batch=8", *RANGE]
    code, row = evaluate("depth", quarters, "--protocol", "nyu_linear", *words)
    assert code == 0
    assert row["scores"][0]["rmse"] < 1.0


def test_eight_bit_depth_is_refused_in_one_line(
    evaluate: Evaluate, quarters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (quarters / "depth").iterdir():
        save(np.asarray(Image.open(path)).astype(np.uint8), path)
    assert evaluate("depth", quarters, *RANGE)[0] == 78
    error = capsys.readouterr().err.splitlines()[-1]
    assert "not 16 bit" in error


def test_one_eight_bit_file_is_a_counted_row(evaluate: Evaluate, quarters: Path) -> None:
    save(np.zeros((32, 32), dtype=np.uint8), quarters / "depth" / "04.png")
    code, row = evaluate("depth", quarters, "probe=ridge", *RANGE, "--max-bad-frac", "0.1")
    assert code == 0
    assert len(row["left_out"]) == 1
    assert "not 16 bit" in row["left_out"][0]["reason"]
    assert row["images"]["test"] == 3


def test_an_image_without_depth_is_counted_and_in_no_mean(evaluate: Evaluate, quarters: Path) -> None:
    before = evaluate("depth", quarters, "probe=ridge", *RANGE)[1]
    save(np.zeros((32, 32), dtype=np.uint16), quarters / "depth" / "04.png")
    code, row = evaluate("depth", quarters, "probe=ridge", *RANGE)
    assert code == 0
    assert (before["without_valid_pixels"], row["without_valid_pixels"]) == (0, 1)
    assert np.isfinite(row["scores"][0]["silog"])


def test_the_synthetic_landscapes_have_depth(evaluate: Evaluate) -> None:
    code, row = evaluate("depth", "Synthetic:n=20:size=32", "probe=ridge")
    assert code == 0
    assert row["scores"][0]["rmse"] < 30


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["low=5", "high=1"], "0 < low < high"),
        (["bin_rule=cubic"], "bin_rule: linear, log"),
        (["crop_height=24"], "give both"),
        (["low=100", "high=200"], "no test image has a depth between"),
    ],
)
def test_a_wrong_word_is_one_line(
    evaluate: Evaluate, quarters: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("depth", quarters, "steps=2", *words)[0] == 78
    assert problem in capsys.readouterr().err.splitlines()[-1]
