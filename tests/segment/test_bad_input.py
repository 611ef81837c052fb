"""What cannot be used is one line that names it, exit code 78, and an untouched folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.cli import main as dinov3
from tests.segment import tiny


def write_folder(root: Path, n: int = 10) -> Path:
    """Two classes, left and right."""
    random = np.random.default_rng(0)
    for number in range(n):
        mask = np.zeros((32, 40), np.uint8)
        mask[:, 20:] = 1
        image = np.where(mask[..., None], 200, 50) + random.integers(0, 30, (32, 40, 3))
        for folder, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def save(root: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(root / "masks" / name)


def empty(root: Path, folder: str) -> None:
    for path in (root / folder).iterdir():
        path.unlink()


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "a mask of another size": (
        lambda at: save(at, "3.png", np.zeros((32, 32), np.uint8)),
        "3.png: the truth is 32x32, the image 40x32: they must have one size",
    ),
    "a label outside": (
        lambda at: save(at, "3.png", np.full((32, 40), 7, np.uint8)), "label 7 on 1280 pixels, outside the 2 classes",
    ),
    "a label outside in validation": (
        lambda at: save(at, "4.png", np.full((32, 40), 7, np.uint8)), "1 of 2 images cannot be used",
    ),
    "a mask in colours": (lambda at: save(at, "3.png", np.zeros((32, 40, 3), np.uint8)), "3 channels"),
    "half a mask": (lambda at: (at / "masks" / "3.png").write_bytes(b"\x89PNG\r\n"), "no PNG or TIFF that can be read"),
    "no label in validation": (
        lambda at: [save(at, f"{number}.png", np.full((32, 40), 255, np.uint8)) for number in (4, 9)],
        "no validation mask has a pixel with a label",
    ),
    "no images": (lambda at: empty(at, "images"), "no image with a mask of its name"),
    "no masks": (lambda at: empty(at, "masks"), "no image with a mask of its name"),
    "one mask missing": (lambda at: (at / "masks" / "3.png").unlink(), "no mask 3.png"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, problem = DATA[case]
    root = write_folder(tmp_path / "data")
    spoil(root)
    refused(tiny.words(at, train__dataset_path=root, train__classes=2), tmp_path / "run", capsys, problem)


def test_masks_of_one_class(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "data")
    for path in (root / "masks").iterdir():
        save(root, path.name, np.zeros((32, 40), np.uint8))
    refused(tiny.words(at, train__dataset_path=root, train__classes="null"), tmp_path / "run", capsys, "at least two")


def test_what_is_allowed_is_a_counted_row(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "data")
    save(root, "3.png", np.zeros((32, 32), np.uint8))
    words = tiny.words(at, train__dataset_path=root, train__classes=2, data__max_bad_frac=0.5, optim__epochs=4)
    assert dinov3(["finetune", "--output-dir", str(tmp_path / "run"), *words]) == 0
    (row,) = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert "they must have one size" in row
    # the same of the images it is scored on: a command has an option where a run has a key
    save(root, "4.png", np.zeros((32, 32), np.uint8))
    evaluate = ["finetune", "evaluate", str(tmp_path / "run"), "--data", str(root), "--out", str(tmp_path / "scores")]
    assert dinov3(evaluate) == 74
    assert "--max-bad-frac of a command" in capsys.readouterr().err
    assert dinov3([*evaluate, "--max-bad-frac", "0.5"]) == 0
    (left_out,) = json.loads((tmp_path / "scores" / "results.json").read_text())["left_out"]
    assert "they must have one size" in left_out["reason"]


KEYS = {
    "weights": ({"model__weights": "/nowhere"}, "/nowhere: no such file"),
    "crop": ({"augment__crop": 20}, "augment.crop: 20 is not a multiple of the patch of 8 px: use 16 or 24"),
    "stride": ({"evaluation__stride": 25}, "evaluation.stride: 25 px leaves gaps"),
    "blocks": (
        {"model__frozen": "false", "model__query_blocks": 3},
        "model.query_blocks: 3: the backbone has 2 blocks",
    ),
    "a data set without masks": ({"train__dataset_path": "CIFAR10:root=/nowhere"}, "/nowhere"),
    "a classifier's": ({"model__method": "lora"}, "model.method"),
    "an idle one": ({"model__dropout": 0.5}, "model.dropout: does nothing without model.head=linear or dpt"),
    "an idle rate": ({"optim__backbone_lr": 0.5}, "optim.backbone_lr: does nothing without model.frozen=false"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, problem = KEYS[case]
    refused(tiny.words(at, **changes), tmp_path / "run", capsys, problem)


def test_without_scipy(
    at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinov3.segment.building.find_spec", lambda name: None)
    refused(tiny.words(at), tmp_path / "run", capsys, "pip install 'dinov3[segment]'")


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    assert dinov3(["finetune", "--output-dir", str(out), *words]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert problem in error
    assert not out.exists()


def test_a_run_inside_its_data(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "data")
    words = tiny.words(at, train__dataset_path=root, train__classes="null")
    refused(words, root / "images" / "run", capsys, "lies inside the data")
