"""The picture of nearest images shows those that the features say, in the colour of what is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.eval.online.neighbours import nearest_of, one_of_each
from dinov3.pictures.neighbours import APART, FRAME, GAP, RIGHT, TILE, WRONG, neighbour_sheet


def test_one_image_of_each_class_asks_and_of_many_classes_some() -> None:
    assert one_of_each(torch.tensor([3, 3, 1, 7, 1])).tolist() == [2, 0, 3]
    many = torch.arange(100)
    rows = one_of_each(many)
    assert len(rows) == 6
    assert rows[0] == 0
    assert rows[-1] > 80


def test_the_nearest_is_by_angle_not_by_length() -> None:
    gallery = torch.tensor([[10.0, 1.0], [0.1, 0.0], [0.0, 5.0]])
    assert nearest_of(gallery, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 9).tolist() == [[1, 0, 2], [2, 0, 1]]


def test_frames_say_what_is_of_the_class(tmp_path: Path) -> None:
    queries, found = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 3, 8, 8), 0.5)
    right = torch.tensor([[True, False, True], [False, False, True]])
    neighbour_sheet(queries, found, right, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"), dtype=float) / 255
    cell = TILE + 2 * FRAME
    assert pixels.shape[:2] == (2 * cell + GAP, cell + APART + 3 * (cell + GAP) - GAP)
    for row in range(2):
        for column in range(3):
            top, left = row * (cell + GAP), cell + APART + column * (cell + GAP)
            wanted = RIGHT if right[row, column] else WRONG
            assert np.allclose(pixels[top, left], wanted, atol=1 / 255)
            assert np.allclose(pixels[top + cell // 2, left + cell // 2], 0.5, atol=1 / 255)
    assert np.allclose(pixels[cell // 2, cell // 2], 0)
