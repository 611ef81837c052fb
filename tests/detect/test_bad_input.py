"""What cannot be used is one line that names it, exit code 78, and an untouched folder; or a counted row, where allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dinov3.cli import main as dinov3
from dinov3.detect import metric
from tests.detect import tiny

Told = dict[str, Any]


def box(told: Told, number: int, *values: float) -> None:
    told["annotations"][number]["bbox"] = list(values)


TOLD: dict[str, tuple[Callable[[Told], object], str]] = {
    "no annotation": (lambda told: told["annotations"].clear(), "no annotations: a detector needs boxes"),
    "a box of no area": (lambda told: box(told, 0, 3, 4, 0, 9), "0.png: a box of no area: [3, 4, 0, 9]"),
    "a box outside": (lambda told: box(told, 0, 41, 4, 5, 9), "a box outside the image of 40x32 px: [41, 4, 5, 9]"),
    "a box of three numbers": (lambda told: box(told, 0, 1, 2, 3), "a box of 3 numbers"),
    "a class that is not listed": (
        lambda told: told["annotations"][0].update(category_id=4), "a box of category 4, which annotations.json does not",
    ),
    "an image that is not listed": (lambda told: told["annotations"][0].update(image_id=4), "an annotation of image 4"),
    "an image of another size": (lambda told: told["images"][1].update(width=41), "says 41x32: its boxes are of another"),
    "a number that is none": (lambda told: box(told, 0, 1, 2, 3, float("nan")), "not COCO annotations: annotations[0].bbox"),
    "a name that leads away": (
        lambda told: told["images"][0].update(file_name="../../0.png"), "is not inside the folder of images",
    ),
    "two categories of one name": (lambda told: told["categories"][0].update(name="dark"), "two categories of one name"),
    "two categories of one id": (
        lambda told: told["categories"].append({"id": told["categories"][0]["id"], "name": "new"}), "two categories of the id",
    ),
    "one file under two ids": (
        lambda told: told["images"][1].update(file_name=told["images"][0]["file_name"]), "two images of the file '0.png'",
    ),
    "no categories": (lambda told: told.pop("categories"), "not COCO annotations: no categories"),
    "no counted box to validate": (
        lambda told: [row.update(iscrowd=1) for row in told["annotations"]], "no box in the validation part",
    ),
}  # fmt: skip
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing image": (lambda at: (at / "images" / "3.png").unlink(), "3.png: FileNotFoundError"),
    "half an image": (lambda at: (at / "images" / "3.png").write_bytes(b"\x89PNG\r\n"), "3.png"),
    "no JSON": (lambda at: (at / "annotations.json").unlink(), "0 JSON files here and in annotations/"),
    "half a JSON": (lambda at: (at / "annotations.json").write_text('{"images": ['), "annotations.json: not COCO"),
}


@pytest.mark.parametrize("case", TOLD)
def test_annotations(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, problem = TOLD[case]
    root, told = tiny.write_folder(tmp_path / "data", tiny.coco()), tiny.coco()
    spoil(told)
    tiny.write_json(root, told)
    refused(tiny.words(at, train__dataset_path=root), tmp_path / "run", capsys, problem)


@pytest.mark.parametrize("case", FILES)
def test_files(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, problem = FILES[case]
    root = tiny.write_folder(tmp_path / "data", tiny.coco())
    spoil(root)
    refused(tiny.words(at, train__dataset_path=root), tmp_path / "run", capsys, problem)


def test_what_is_allowed_is_a_counted_row(at: Path, tmp_path: Path) -> None:
    told = tiny.coco()
    box(told, 6, 3, 4, 0, 9)  # of 3.png, which is trained on
    root = tiny.write_folder(tmp_path / "data", told)
    words = tiny.words(at, train__dataset_path=root, data__max_bad_frac=0.5, optim__epochs=3, evaluation__period=10)
    assert dinov3(["finetune", "--output-dir", str(tmp_path / "run"), *words]) == 0
    (row,) = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert "3.png" in row
    assert "a box of no area" in row


def test_a_class_of_another_part_that_is_none_of_the_training_ones(
    at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.coco()
    other["categories"][0]["name"] = "grey"
    for part, told in (("train", tiny.coco()), ("val", other)):
        tiny.write_folder(tmp_path / "data" / part, told)
    words = tiny.words(at, train__dataset_path=tmp_path / "data")
    refused(words, tmp_path / "run", capsys, "the category 'grey' is none of 2 known ones: dark, bright")


KEYS = {
    "weights": ({"model__weights": "/nowhere"}, "/nowhere: no such file"),
    "side": ({"augment__side": 20}, "augment.side: 20 is not a multiple of the patch of 8 px: use 16 or 24"),
    "levels": ({"model__levels": 1}, "model.levels: 1: the grid of patches is level 2"),
    "a data set without boxes": ({"train__dataset_path": "CIFAR10:root=/nowhere"}, "/nowhere"),
    "a segmenter's": ({"model__queries": 5}, "model.queries"),
    "an idle rate": ({"optim__backbone_lr": 0.5}, "optim.backbone_lr: does nothing without model.frozen=false"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, problem = KEYS[case]
    refused(tiny.words(at, **changes), tmp_path / "run", capsys, problem)


def test_without_pycocotools(
    at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric, "find_spec", lambda name: None)
    refused(tiny.words(at), tmp_path / "run", capsys, "pip install 'dinov3[detect]'")


def test_evaluate_without_a_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    assert dinov3(["finetune", "evaluate", str(tmp_path), "--data", tiny.DATA, "--out", str(tmp_path / "out")]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    assert dinov3(["finetune", "--output-dir", str(out), *words]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert problem in error
    assert not out.exists()
