"""What cannot be used is one line that names it, exit code 78, and an untouched folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.cli import main as dinov3
from tests.depth import tiny


def write_folder(root: Path, n: int = 10) -> Path:
    """A ramp of 1 to 9 m, in millimetres."""
    depth = np.tile(np.linspace(1000, 9000, 40).astype(np.uint16), (32, 1))
    for number in range(n):
        image = np.repeat((depth // 40).astype(np.uint8)[..., None], 3, axis=2)
        for folder, pixels in (("images", image), ("depth", depth)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def save(root: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(root / "depth" / "3.png")


def in_light_years(root: Path) -> None:
    for path in (root / "depth").iterdir():
        Image.fromarray(np.ones((32, 40), np.uint16)).save(path)


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "eight bits": (lambda at: save(at, np.ones((32, 40), np.uint8)), "not 16 bit: 256 steps are no depth"),
    "another size": (lambda at: save(at, np.ones((32, 32), np.uint16)), "they must have one size"),
    "half a file": (lambda at: (at / "depth" / "3.png").write_bytes(b"\x89PNG\r\n"), "no PNG or TIFF that can be read"),
    "one missing": (lambda at: (at / "depth" / "3.png").unlink(), "no depth 3.png"),
    "nothing that counts": (in_light_years, "no training image has a depth between train.low 0.5 and train.high 60 m"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, problem = DATA[case]
    root = write_folder(tmp_path / "data")
    spoil(root)
    refused(tiny.words(at, train__dataset_path=root), tmp_path / "run", capsys, problem)


KEYS = {
    "bounds": ({"train__low": 70}, "train.low: 70 is not below train.high 60"),
    "crop": ({"augment__crop_width": 20}, "augment.crop_width: 20 is not a multiple of the patch of 8 px"),
    "a segmenter's": ({"model__queries": 5}, "model.queries"),
    "an idle one": ({"model__head": "linear", "model.width": 32}, "model.width: does nothing without model.head=dpt"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, problem = KEYS[case]
    refused(tiny.words(at, **changes), tmp_path / "run", capsys, problem)


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    assert dinov3(["finetune", "--output-dir", str(out), *words]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert problem in error
    assert not out.exists()
