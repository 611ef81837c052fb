"""A view's boxes are where its pixels are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3.data.decode import USUAL
from dinov3.data.randomness import generator
from dinov3.detect.boxed import BoxedSet, SyntheticBoxes, open_parts
from dinov3.detect.boxes import Boxes, Move, boxes_of
from dinov3.detect.views import Views

PLAIN = Views((0.0,) * 3, (1.0,) * 3, 48, (0.5, 2.0))


def one(corners: list[float], *, ignored: bool = False) -> Boxes:
    return boxes_of([corners], [0], [ignored], [1.0])


@pytest.mark.parametrize("draw", range(12))
def test_the_painted_square_is_in_its_box(draw: int) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[12:28, 20:44] = 255
    image, boxes = PLAIN.cut(pixels, one([20, 12, 44, 28]), generator(0, "a test", draw))
    assert image.shape == (3, 48, 48)
    rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
    if not len(rows):
        assert len(boxes) == 0 or boxes.ignored.all()
        return
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(boxes.corners[0] - np.array([int(x) for x in seen])).max() <= 1.01


def test_a_mirrored_box_is_at_the_other_side() -> None:
    moved = one([2, 3, 10, 20]).moved(Move((2.0, 1.0), (-2, 0), True, 32))
    assert moved.corners.tolist() == [[14, 3, 30, 20]]


def test_a_box_of_which_little_is_seen_is_ignored_and_one_outside_is_gone() -> None:
    assert one([0, 0, 10, 10]).moved(Move((1.0, 1.0), (-8, 0), False, 32)).ignored.tolist() == [True]
    assert one([0, 0, 10, 10]).moved(Move((1.0, 1.0), (-5, 0), False, 32)).ignored.tolist() == [False]
    assert len(one([0, 0, 10, 10]).moved(Move((1.0, 1.0), (-10, 0), False, 32))) == 0
    assert len(boxes_of([], [], [], []).moved(Move((1.0, 1.0), (0, 0), True, 32))) == 0


def test_a_whole_image_keeps_its_shape_in_the_upper_left_corner() -> None:
    image, scale = PLAIN.whole(np.full((20, 60, 3), 255, np.uint8))
    assert scale == (0.8, 0.8)
    assert image[0, :16].min() > 0.99
    assert image[0, 16:].max() == 0


def test_the_object_of_a_synthetic_picture_fills_its_box() -> None:
    train, test = open_parts("Synthetic:n=20:size=48", USUAL)
    assert (len(train), len(test)) == (16, 4)
    assert set(train.indices) & set(test.indices) == set()
    source = test.source
    assert isinstance(source, SyntheticBoxes)
    assert isinstance(test, BoxedSet)
    for index in range(4):
        pixels, boxes = test.read(index, 3)
        segments = source.source.segmentation(test.indices[index])
        left, top, right, bottom = boxes.corners[0].astype(int)
        outside = segments.copy()
        outside[top:bottom, left:right] = 0
        assert outside.max() < 5  # dinov3.data.sources.world.OBJECT
        inner = segments[top:bottom, left:right] == 5 + boxes.classes[0]
        assert inner.any(1).all() or inner.any(1)[[0, -1]].all()
        assert inner.any(0)[[0, -1]].all()
        assert source.classes[boxes.classes[0]] in test.name(index)
        assert pixels.shape == (48, 48, 3)
