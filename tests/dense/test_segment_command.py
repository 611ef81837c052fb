from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.segment import prepared
from tests.dense.conftest import Evaluate, save

QUICK = ["steps=60", "warmup=5", "lr=0.02"]


@pytest.mark.parametrize("probe", ["ridge", "sgd"])
def test_colours_that_features_hold_are_told_apart(
    evaluate: Evaluate, quarters: Path, probe: str, tmp_path: Path
) -> None:
    picture = tmp_path / "sheet.png"
    code, row = evaluate("seg", quarters, f"probe={probe}", *QUICK, "--pictures", str(picture))
    assert code == 0
    linear, neighbours = row["scores"]
    assert linear["mIoU"] > 0.8
    assert neighbours["mIoU"] > 0.8
    assert row["images"] == {"train": 16, "test": 4}
    assert row["classes"] == 4
    assert len(linear["iou_of_class"]) == 4
    assert Image.open(picture).size[0] > 300


def test_the_same_seed_gives_the_same_line(evaluate: Evaluate, quarters: Path) -> None:
    first = evaluate("seg", quarters, *QUICK)[1]["scores"]
    assert evaluate("seg", quarters, *QUICK)[1]["scores"] == first


def test_random_crops_and_windows_learn_too(evaluate: Evaluate, quarters: Path) -> None:
    small = ["short_side=32", "crop=24", "stride=8", "classes=4", "reduce_zero=false", "batch=8", "flip_tta=true"]
    code, row = evaluate("seg", quarters, "--protocol", "ade20k_linear", *QUICK, *small)
    assert code == 0
    assert row["scores"][0]["mIoU"] > 0.5


def test_the_mirrored_view_and_the_foreground_are_rows_of_the_result(evaluate: Evaluate, quarters: Path) -> None:
    code, row = evaluate("seg", quarters, "probe=ridge", "flip_tta=true", "foreground=2")
    assert code == 0
    assert row["scores"][0]["mIoU"] > 0.8
    assert 0 <= row["scores"][2]["mIoU"] <= 1


def test_a_synthetic_set_needs_no_files(evaluate: Evaluate) -> None:
    code, row = evaluate("seg", "Synthetic:n=20:size=32", "probe=ridge")
    assert code == 0
    assert row["classes"] > 5


def test_masks_that_cannot_be_used_are_counted_rows(evaluate: Evaluate, quarters: Path) -> None:
    save(np.zeros((16, 16), dtype=np.uint8), quarters / "masks" / "00.png")
    save(np.full((32, 32), 77, dtype=np.uint8), quarters / "masks" / "01.png")
    save(np.zeros((32, 32, 3), dtype=np.uint8), quarters / "masks" / "02.png")
    (quarters / "masks" / "03.png").write_bytes(b"")
    (quarters / "images" / "04.png").write_bytes(b"no picture")
    code, row = evaluate("seg", quarters, "probe=ridge", "classes=4", "--max-bad-frac", "0.5")
    assert code == 0
    reasons = {Path(r["name"]).stem: r["reason"] for r in row["left_out"]}
    assert set(reasons) == {"00", "01", "02", "03", "04"}
    assert "the truth is 16x16, the image 32x32" in reasons["00"]
    assert "label 77 on 1024 pixels, outside the 4 classes" in reasons["01"]
    assert "not colours" in reasons["02"]
    assert row["images"] == {"train": 12, "test": 3}


def test_too_many_of_them_are_one_line(evaluate: Evaluate, quarters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(np.zeros((16, 16), dtype=np.uint8), quarters / "masks" / "00.png")
    code, row = evaluate("seg", quarters, "probe=ridge", "classes=4")
    assert (code, row) == (74, {})
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 20 cannot be used" in error
    assert "the truth is 16x16" in error


def test_an_image_without_a_label_is_no_error(evaluate: Evaluate, quarters: Path) -> None:
    save(np.full((32, 32), 255, dtype=np.uint8), quarters / "masks" / "00.png")
    save(np.full((32, 32), 255, dtype=np.uint8), quarters / "masks" / "04.png")
    code, row = evaluate("seg", quarters, "probe=ridge", "classes=4")
    assert code == 0
    assert row["left_out"] == []


@pytest.mark.parametrize("probe", ["ridge", "sgd"])
def test_a_number_among_the_classes_that_is_ignored_is_neither_learnt_nor_said(
    evaluate: Evaluate, quarters: Path, probe: str
) -> None:
    """As if 0 were unlabelled and the classes began at 1: no head answers it where it cannot be right."""
    code, row = evaluate("seg", quarters, "ignore=0", "classes=4", f"probe={probe}", *QUICK)
    assert code == 0
    for scores in row["scores"]:
        assert scores["mIoU"] > 0.8, scores["head"]
        assert scores["iou_of_class"][0] is None


def test_a_mark_of_sixteen_bits_is_ignored_when_it_is_named_and_asked_for_when_it_is_not(
    evaluate: Evaluate, quarters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (quarters / "masks").iterdir():
        mask = np.asarray(Image.open(path)).astype(np.uint16)
        mask[0] = 65535
        save(mask, path)
    code, row = evaluate("seg", quarters, "ignore=65535", "probe=sgd", *QUICK)
    assert (code, row["classes"]) == (0, 4)
    assert row["scores"][0]["mIoU"] > 0.8
    capsys.readouterr()
    assert evaluate("seg", quarters, *QUICK)[0] == 78
    assert (
        "have the number 65535: where it marks what nobody labelled, say so (ignore=65535)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("spoiled", "words", "problem"),
    [
        (range(20), ["classes=4"], "no test mask has a pixel with a label"),
        (range(20), [], "no training mask has a pixel with a label (ignore is 255)"),
        ([4, 9, 14, 19], [], "no test mask has a pixel with a label"),
    ],
)
def test_a_part_without_a_label_is_one_line(
    evaluate: Evaluate,
    quarters: Path,
    spoiled: list[int],
    words: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in spoiled:
        save(np.full((32, 32), 255, dtype=np.uint8), quarters / "masks" / f"{number:02d}.png")
    assert evaluate("seg", quarters, "probe=sgd", *QUICK, *words)[0] == 78
    assert problem in capsys.readouterr().err


def test_masks_in_colours_are_named_also_where_classes_are_counted(
    evaluate: Evaluate, quarters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (quarters / "masks").iterdir():
        save(np.zeros((32, 32, 3), dtype=np.uint8), path)
    assert evaluate("seg", quarters, *QUICK)[0] == 78
    assert "00.png: 3 channels (RGB): one number a pixel is expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["steps=many"], "steps=many: a int is expected"),
        (["colour=red"], "colour=red: give key=value with one of probe"),
        (["probe=magic"], "choose sgd or ridge"),
        (["steps=0"], "steps=0: at least 1"),
        (["probe=ridge", "crop=24"], "probe=ridge is for whole images"),
        (["flip_tta=perhaps"], "a bool is expected"),
        (["stride=7"], "stride does nothing without crop"),
        (["crop=24", "foreground=1"], "foreground is found on whole images"),
        (["foreground=4"], "foreground=4: the classes are numbered from 0 to 3"),
    ],
)
def test_a_wrong_word_is_one_line(
    evaluate: Evaluate, quarters: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("seg", quarters, *words)[0] == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_folder_without_masks_is_one_line(
    evaluate: Evaluate, quarters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("seg", quarters / "images")[0] == 78
    assert "no folder images beside one of masks" in capsys.readouterr().err


def test_native_sizes_are_refused_in_one_line(
    weights: Path, quarters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "seg", "--weights", str(weights), "--data", str(quarters), "--size", "native"]) == 78
    assert "--size native" in capsys.readouterr().err


def test_reduce_zero_makes_the_background_unlabelled() -> None:
    mask = np.array([[0, 1, 4, 255]])
    ready = prepared(mask, 4, SegmentProtocol(reduce_zero=True))
    assert ready.tolist() == [[255, 0, 3, 255]]
    assert torch.from_numpy(ready).dtype == torch.int32
