from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.cli import main
from dinov3.data.sources.synthetic import Synthetic
from dinov3.data.sources.synthetic_video import SyntheticVideo
from dinov3.data.sources.world import SKY


def write(out: Path, *more: str) -> int:
    return main(["data", "synth-dense", "--out", str(out), "--n", "5", "--films", "1", "--size", "32", *more])


def test_files_hold_what_the_source_says(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert write(out, "--length", "6", "--seed", "3") == 0
    source = Synthetic(n=5, size=32, seed=3)
    for index, part in ((0, "training"), (4, "validation")):
        scene, name = source.scene(index), f"{part}/{index:05d}.png"
        assert np.array_equal(np.asarray(Image.open(out / "images" / name)), scene.image)
        assert np.array_equal(np.asarray(Image.open(out / "masks" / name)), scene.segmentation)
        depth = np.asarray(Image.open(out / "depth" / name)) / 1000
        assert (depth[scene.segmentation == SKY] == 0).all()
        land = scene.segmentation != SKY
        np.testing.assert_allclose(depth[land], scene.depth[land], atol=6e-4)
    frames = list(SyntheticVideo(1, 6, 32, 3).frames(0))
    for number, (pixels, mask) in enumerate(frames):
        name = f"film0/{number:05d}.png"
        assert np.array_equal(np.asarray(Image.open(out / "films" / "frames" / name)), pixels)
        assert np.array_equal(np.asarray(Image.open(out / "films" / "masks" / name)), mask)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert write(tmp_path) == 78
    assert "holds files already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("option", "value"), [("--n", "1"), ("--size", "8"), ("--length", "1")])
def test_a_number_without_a_meaning_is_one_line(
    tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(tmp_path / "set", option, value) == 78
    assert f"{option} {value}: at least" in capsys.readouterr().err
