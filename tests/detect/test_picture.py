"""Boxes are drawn where they are; of those at one place the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dinov3.detect.boxes import boxes_of
from dinov3.detect.metric import Found
from dinov3.detect.picture import boxed, draw, drawn

PIXELS = np.full((64, 64, 3), 128, np.uint8)
FOUND = Found(
    boxes_of([[8, 8, 40, 40]], [1], [False], [1024]),
    np.array([[8, 8, 40, 40], [9, 9, 41, 41], [50, 50, 60, 60], [0, 0, 5, 5]], np.float32),
    np.array([0.9, 0.8, 0.5, 0.1], np.float32),
    np.array([1, 0, 0, 1]),
)


def test_the_edge_of_a_box_has_its_colour_and_its_inside_the_image() -> None:
    picture = boxed(PIXELS, FOUND.corners[:1], [(1.0, 0.0, 0.0)], [""])  # 64 px are drawn as 256
    assert picture.shape == (3, 256, 256)
    assert picture[:, 33, 100].tolist() == [1, 0, 0]
    assert (picture[:, 100, 100] * 255).round().tolist() == [128] * 3
    assert (picture[:, 20, 100] * 255).round().tolist() == [128] * 3


def test_of_boxes_at_one_place_the_best_is_drawn_and_unlikely_ones_are_not() -> None:
    assert drawn(FOUND).tolist() == [2, 0]


def test_a_sheet_of_an_image_with_boxes_and_of_one_without(tmp_path: Path) -> None:
    none = Found(boxes_of([], [], [], []), FOUND.corners[:0], FOUND.scores[:0], FOUND.classes[:0])
    draw([(PIXELS, FOUND), (PIXELS[..., :1], none)], ["a", "b"], "a title", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 300
