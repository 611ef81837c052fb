from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.dense.matching.navi import INVERSE_DEPTH, Photograph, photograph_pairs, read_depth, rotation_of, turned
from tests.dense.conftest import Evaluate, save

SIDE, FOCAL, DISTANCE = 64, 200.0, 500.0


def photograph(angle: float) -> Photograph:
    """A camera 500 mm from the object's middle, turned about its upright axis."""
    q = [np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0]
    translation = np.array([0, 0, -DISTANCE])
    return Photograph(Path("a.png"), Path("a.png"), (SIDE, SIDE), rotation_of(q), translation, FOCAL)


def test_a_pixel_becomes_a_place_and_the_place_the_same_pixel() -> None:
    camera = photograph(0.4)
    xy, depth = torch.rand(20, 2).double() * SIDE, 400 + 100 * torch.rand(20).double()
    again, deep = camera.pixels(camera.object_points(xy, depth))
    torch.testing.assert_close(again, xy)
    torch.testing.assert_close(deep, depth)


def test_two_cameras_see_one_place() -> None:
    a, b = photograph(0.0), photograph(0.3)
    place = torch.tensor([[10.0, 20.0, 5.0]], dtype=torch.float64)
    for camera in (a, b):
        xy, depth = camera.pixels(place)
        torch.testing.assert_close(camera.object_points(xy, depth), place)
    assert turned(a, b) == pytest.approx(np.degrees(0.3))
    up, _ = a.pixels(torch.tensor([[0.0, 10.0, 0.0]], dtype=torch.float64))
    assert up[0, 1] < SIDE / 2  # up is up


@pytest.fixture
def navi(tmp_path: Path) -> Path:
    """A flat object of random blocks, photographed twice from one place; beside it nothing."""
    folder = tmp_path / "navi" / "toy" / "wild_set"
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    depth = np.zeros((SIDE, SIDE))
    depth[8:56, 8:56] = INVERSE_DEPTH / DISTANCE
    rows = []
    for name in ("000.png", "001.png"):
        save(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8), folder / "images" / name)
        save(depth.round().astype(np.uint16), folder / "depth" / name)
        camera = {"q": [1, 0, 0, 0], "t": [0, 0, -DISTANCE], "focal_length": FOCAL}
        rows.append({"filename": name, "image_size": [SIDE, SIDE], "camera": camera})
    (folder / "annotations.json").write_text(json.dumps(rows))
    return tmp_path / "navi"


def test_the_same_view_is_matched_within_a_millimetre(evaluate: Evaluate, navi: Path) -> None:
    code, row = evaluate("match", navi, "--protocol", "navi", "--size", "64", "debias_images=2")
    assert code == 0
    assert row["pairs"] == 2
    for score in row["scores"]:
        assert score["recall@20mm"] == 1.0
        assert score["points"] == 2 * 36


def test_depth_is_its_inverse_in_16_bit(navi: Path) -> None:
    depth = read_depth(navi / "toy" / "wild_set" / "depth" / "000.png")
    assert float(depth[30, 30]) == pytest.approx(DISTANCE, rel=1e-3)
    assert depth[0, 0] == torch.inf
    assert len(photograph_pairs(navi)) == 2


def test_a_foreign_folder_is_one_line(evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    assert evaluate("match", tmp_path / "x", "--protocol", "navi", "--size", "64")[0] == 78
    assert "give the folder of NAVI" in capsys.readouterr().err
