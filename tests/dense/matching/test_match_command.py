from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinov3.data.sources import parse_dataset
from dinov3.dense.matching.match import colour_patches, homographies
from dinov3.dense.matching.pairs import chosen_pairs, homography_of, random_homography, warped
from dinov3.dense.protocols import MatchProtocol
from dinov3.dense.report import LeftOut
from dinov3.features.extract import load
from tests.dense.conftest import Evaluate, save

QUICK = ["debias_images=4"]


def spots(path: Path, seed: int, shift: int = 0) -> None:
    """A picture of random blocks of 8 px, moved to the right by ``shift`` blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    blocks = np.roll(blocks, shift, axis=1)
    save(np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8), path)


@pytest.fixture
def spair(tmp_path: Path) -> Path:
    root = tmp_path / "spair"
    for i in range(3):
        spots(root / "JPEGImages" / "cat" / f"a{i}.png", i)
        spots(root / "JPEGImages" / "cat" / f"b{i}.png", i, shift=1)
        places = [[8 * x + 4, 8 * y + 4] for x in range(1, 6) for y in range(8)]
        pair = {
            "category": "cat",
            "src_imname": f"a{i}.png",
            "trg_imname": f"b{i}.png",
            "src_kps": places,
            "trg_kps": [[x + 8, y] for x, y in places],
            "trg_bndbox": [0, 0, 64, 48],
        }
        path = root / "PairAnnotation" / "test" / f"{i}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(pair))
    return root


def rows_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {score["features"]: score for score in row["scores"]}


def test_moved_blocks_are_found_again_with_and_without_the_bias(
    evaluate: Evaluate, spair: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "matches.png"
    code, row = evaluate("match", spair, "--protocol", "spair", "--size", "64", *QUICK, "--pictures", str(picture))
    assert code == 0
    found = rows_of(row)
    assert set(found) == {"raw", "debiased", "colour"}
    assert found["raw"]["PCK@0.1/point"] > 0.7
    assert found["colour"]["PCK@0.1/point"] == 1.0
    assert found["raw"]["points"] == 120
    assert row["positional_bias"]["estimated_on"] == "4 images of noise"
    assert picture.stat().st_size > 1000


def test_errors_are_in_pixels_of_the_image_on_disk(evaluate: Evaluate, spair: Path) -> None:
    """Seen at half the size, patches are twice as large on disk: 16 px, and PCK at 0.05 * 64 px tells."""
    code, row = evaluate("match", spair, "--protocol", "spair", "--size", "32", *QUICK)
    assert code == 0
    assert rows_of(row)["colour"]["PCK@0.05/point"] < 0.5


def test_homographies_need_no_labels(evaluate: Evaluate, spair: Path) -> None:
    code, row = evaluate("match", spair / "JPEGImages", "--size", "64", "debias_images=0", "strength=0.02")
    assert code == 0
    found = rows_of(row)
    assert set(found) == {"raw", "colour"}
    assert found["raw"]["recall@1p"] > 0.4  # by chance 0.14
    assert found["raw"]["mutual_recall@1p"] > 0.8
    assert row["pairs"] == 6


@pytest.mark.parametrize("debias_images", [0, 4])
def test_features_that_are_no_numbers_are_said_to_be_none(weights: Path, debias_images: int) -> None:
    extractor = load(weights, size=32, device="cpu")
    with torch.no_grad():
        next(extractor.backbone.parameters()).fill_(torch.nan)
    protocol = MatchProtocol(debias_images=debias_images)
    with pytest.raises(FloatingPointError, match="patch features are not finite"):
        homographies(extractor, parse_dataset("Synthetic:n=3:size=32"), protocol, LeftOut())


def test_coco_keypoints_make_pairs_of_one_category(evaluate: Evaluate, spair: Path) -> None:
    root = spair / "JPEGImages" / "cat"
    points = [[4, 4, 2], [12, 12, 2], [20, 20, 0]]
    annotations = [
        {
            "image_id": i,
            "category_id": 1,
            "bbox": [0, 0, 64, 64],
            "keypoints": [v for x, y, seen in points for v in (x + 8 * i, y, seen)],
        }
        for i in range(2)
    ]
    images = [{"id": 0, "file_name": "a0.png"}, {"id": 1, "file_name": "sub/b0.png"}]
    (root / "people.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    code, row = evaluate("match", root, "--protocol", "keypoints", "--size", "64", *QUICK)
    assert code == 0
    assert row["pairs"] == 2
    assert rows_of(row)["colour"]["points"] == 4
    assert rows_of(row)["colour"]["PCK@0.1/pair"] == 1.0


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ('{"images": [], "annotations": []}', "no annotation with keypoints"),
        ('{"images": []}', "not COCO keypoints: JsonError"),
        ("not json", "cannot be read as JSON"),
    ],
)
def test_an_empty_or_foreign_annotation_is_one_line(
    evaluate: Evaluate, tmp_path: Path, told: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "a.json").write_text(told)
    assert evaluate("match", tmp_path / "coco", "--protocol", "keypoints", "--size", "64", *QUICK)[0] == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_pair_that_cannot_be_read_is_a_counted_row(evaluate: Evaluate, spair: Path) -> None:
    (spair / "JPEGImages" / "cat" / "a0.png").write_bytes(b"")
    pair = spair / "PairAnnotation" / "test" / "1.json"
    told = json.loads(pair.read_text())
    told["src_kps"][0] = [1000, 3]
    pair.write_text(json.dumps(told))
    code, row = evaluate("match", spair, "--protocol", "spair", "--size", "64", *QUICK, "--max-bad-frac", "0.9")
    assert code == 0
    assert {r["name"] for r in row["left_out"]} == {"0", "1"}
    assert "outside 64x64" in row["left_out"][1]["reason"]


def test_a_homography_takes_its_corners_where_it_was_told() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=np.float64)
    other = square * 2 + np.array([1, 3]) + np.array([[0, 0], [0.5, 0], [0, 0.25], [0, 0]])
    matrix = homography_of(square, other).numpy()
    full = np.concatenate([square, np.ones((4, 1))], 1) @ matrix.T
    np.testing.assert_allclose(full[:, :2] / full[:, 2:], other, atol=1e-9)


def test_a_warped_image_shows_each_point_where_the_homography_says() -> None:
    image = torch.zeros(1, 40, 40)
    image[0, 10:13, 20:23] = 1
    homography = random_homography((40, 40), 0.2, np.random.default_rng(0))
    seen = warped(image, homography)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    middle = torch.stack([(seen[0] * x).sum(), (seen[0] * y).sum()]) / seen.sum()
    expected = homography @ torch.tensor([21.5, 11.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(middle.double(), expected[:2] / expected[2], atol=0.2, rtol=0)


def test_colour_patches_are_means_of_sixteenths() -> None:
    image = torch.randn(3, 16, 24)
    found = colour_patches(image, 8)
    assert found.shape == (2, 3, 48)
    torch.testing.assert_close(found[1, 2].view(3, 4, 4)[:, 0, 1], image[:, 8:10, 18:20].mean((1, 2)))


def test_pairs_are_drawn_by_seed() -> None:
    assert chosen_pairs(5, 0, 0) == [0, 1, 2, 3, 4]
    drawn = chosen_pairs(100, 10, 3)
    assert drawn == chosen_pairs(100, 10, 3) == sorted(set(drawn))
    assert drawn != chosen_pairs(100, 10, 4)
