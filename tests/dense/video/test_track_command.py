from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.dense.conftest import Evaluate, save


def square_film(root: Path, name: str = "square", frames: int = 8) -> None:
    """A red square that moves by a pixel or two a frame over noise that stays; its number is 3."""
    ground = np.random.default_rng(0).integers(60, 120, (48, 64, 3))
    for t in range(frames):
        mask, pixels = np.zeros((48, 64), dtype=np.uint8), ground.copy()
        mask[16:32, 8 + 2 * t : 24 + 2 * t] = 3
        pixels[mask == 3] = [230, 30, 30]
        save(pixels.astype(np.uint8), root / "JPEGImages" / "480p" / name / f"{t:05d}.png")
        save(mask, root / "Annotations" / "480p" / name / f"{t:05d}.png")


@pytest.mark.parametrize("protocol", ["small", "davis_dino"])
def test_a_moving_square_is_followed(evaluate: Evaluate, tmp_path: Path, protocol: str) -> None:
    square_film(tmp_path / "davis")
    picture = tmp_path / "sheet.png"
    words = ["short_side=96", "radius=6", "--pictures", str(picture)]
    code, row = evaluate("track", tmp_path / "davis", "--protocol", protocol, *words)
    assert code == 0
    (score,) = row["scores"]
    assert score["J"] > 0.6
    assert (score["objects"], score["frames"]) == (1, 6)  # neither the first nor the last
    assert score["per_object"][0]["object"] == 3
    assert picture.stat().st_size > 1000


def test_the_list_of_davis_says_which_videos_count(evaluate: Evaluate, tmp_path: Path) -> None:
    for name in ("one", "two"):
        square_film(tmp_path / "davis", name, frames=3)
    listed = tmp_path / "davis" / "ImageSets" / "2017" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("two\n")
    code, row = evaluate("track", tmp_path / "davis", "skip_last=false")
    assert code == 0
    assert [o["video"] for o in row["scores"][0]["per_object"]] == ["two"]
    assert row["scores"][0]["frames"] == 2


def test_what_is_missing_is_left_out_by_name(evaluate: Evaluate, tmp_path: Path) -> None:
    for name in ("one", "two"):
        square_film(tmp_path / "davis", name)
    listed = tmp_path / "davis" / "ImageSets" / "2017" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("one\ntwo\nthree\n")
    (tmp_path / "davis" / "JPEGImages" / "480p" / "one" / "00005.png").unlink()
    (tmp_path / "davis" / "Annotations" / "480p" / "two" / "00000.png").unlink()
    code, row = evaluate("track", tmp_path / "davis", "--max-bad-frac", "0.9")
    assert code == 0
    reasons = {Path(left["name"]).name: left["reason"] for left in row["left_out"]}
    assert reasons == {
        "three": "listed in val.txt, and not there",
        "00005.png": "a mask without a frame",
        "two": "its first frame has no mask",
    }


def test_an_unreadable_frame_and_a_mask_of_another_size_are_counted_rows(evaluate: Evaluate, tmp_path: Path) -> None:
    square_film(tmp_path / "davis")
    (tmp_path / "davis" / "JPEGImages" / "480p" / "square" / "00003.png").write_bytes(b"broken")
    save(np.zeros((4, 4), dtype=np.uint8), tmp_path / "davis" / "Annotations" / "480p" / "square" / "00005.png")
    code, row = evaluate("track", tmp_path / "davis", "--max-bad-frac", "0.5")
    assert code == 0
    assert len(row["left_out"]) == 2
    assert row["scores"][0]["frames"] == 4


def test_a_first_mask_without_an_object_is_one_line(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square_film(tmp_path / "davis", frames=3)
    save(np.zeros((48, 64), dtype=np.uint8), tmp_path / "davis" / "Annotations" / "480p" / "square" / "00000.png")
    assert evaluate("track", tmp_path / "davis")[0] == 78
    assert "the first mask has no object" in capsys.readouterr().err


def test_a_synthetic_film_with_a_cut_and_a_tree_is_scored(evaluate: Evaluate) -> None:
    code, row = evaluate("track", "SyntheticVideo:n=1:length=10:size=64")
    assert code == 0
    assert row["scores"][0]["frames"] == 8
    assert row["compute_dtype"] == "fp32"


def test_a_row_says_the_number_format_that_features_were_computed_in(evaluate: Evaluate) -> None:
    code, row = evaluate("track", "SyntheticVideo:n=1:length=3:size=32", "--compute-dtype", "bf16")
    assert code == 0
    assert row["compute_dtype"] == "bf16"


@pytest.mark.parametrize(
    ("data", "words", "problem"),
    [
        ("SyntheticVideo:n=0", [], "n=0 is less than 1"),
        ("SyntheticVideo:n=1:length=3:size=32", ["topk=0"], "topk 0: at least 1"),
        ("nowhere", [], "neither JPEGImages/"),
    ],
)
def test_what_cannot_be_followed_is_one_line(
    evaluate: Evaluate, data: str, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("track", data, *words)[0] == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
