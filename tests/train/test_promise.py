"""Images that can teach nothing are refused before anything is written; those that promise little are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.sources import parse_dataset
from dinov3.train.command import main
from dinov3.train.promise import doubts
from tests.train.tiny import command, tiny_config


def photos(folder: Path, number: int, side: int = 40, *, same: bool = False) -> Path:
    folder.mkdir()
    for i in range(number):
        pixels = np.random.default_rng(0 if same else i).integers(0, 255, (side, side, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("number", "side", "same", "said"),
    [
        (1, 40, False, "photos: 1 image: nothing can be learned from one"),
        (9, 40, True, "photos: 9 files, and all 9 images are the same: nothing can be learned from one"),
        (20, 4, False, "photos: images of 4 x 4 px at most, no more than one patch (student.patch_size 8)"),
        (20, 8, False, "photos: images of 8 x 8 px at most, no more than one patch (student.patch_size 8)"),
    ],
)
def test_what_can_teach_nothing_is_refused(
    number: int, side: int, same: bool, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "photos", number, side, same=same)
    one = {"train__batch_size_per_gpu": 1, "dino__koleo_loss_weight": 0}
    assert main(command(tmp_path / "run", train__dataset_path=images, **one)) == 78
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_images_that_promise_little_are_said_on_top_of_the_start_up_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "photos", 24)
    for path in sorted(images.iterdir())[::4]:
        path.write_bytes(b"")
    words = {"train__dataset_path": images, "data__max_bad_frac": 0.5, "train__max_steps": 1}
    assert main(command(tmp_path / "run", **words)) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    began = next(place for place, line in enumerate(lines) if line.startswith("dinov3 "))
    assert lines[began + 1].startswith("warning    only 24 images: ")
    assert lines[began + 2].startswith("warning    6 of 24 images that were looked at cannot be read, as ")
    assert lines[began + 2].endswith("lists them); the run goes on with up to 50.0% (data.max_bad_frac)")


def test_a_large_data_set_whose_looked_at_images_are_the_same_is_not_refused(tmp_path: Path) -> None:
    cfg = tiny_config(train__dataset_path=photos(tmp_path / "photos", 101, same=True))
    (said,) = doubts(cfg, parse_dataset(str(tmp_path / "photos")))
    assert said.startswith("warning    26 of 101 images were looked at, and all are the same")


def test_usual_images_are_nothing_to_speak_of() -> None:
    assert doubts(tiny_config(), parse_dataset("Synthetic:n=200:size=40")) == []
