from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.dense.segmentation import areas, class_scores, confusion, summary, without_zero


@st.composite
def labelled(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    classes = draw(st.integers(1, 5))
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    numbers = st.sampled_from([*range(-1, classes + 2), 255])
    rows = [draw(st.lists(numbers, min_size=size[0] * size[1], max_size=size[0] * size[1])) for _ in range(2)]
    return torch.tensor(rows[0]).view(size), torch.tensor(rows[1]).view(size), classes


@settings(max_examples=100, deadline=None)
@given(labelled())
def test_areas_are_what_counting_pixel_by_pixel_gives(given_: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    said, true, classes = given_
    counted = torch.zeros(4, classes, dtype=torch.int64)
    for p, t in zip(said.flatten().tolist(), true.flatten().tolist(), strict=True):
        for c in range(classes):
            if t != 255:
                counted[0, c] += p == t == c
                counted[1, c] += (p == c) or (t == c)
                counted[2, c] += p == c
                counted[3, c] += t == c
    assert torch.equal(areas(said, true, classes), counted)
    inside = confusion([said], [true], classes)
    assert torch.equal(inside.diag(), counted[0])


def test_areas_stay_exact_where_float32_stops_counting() -> None:
    one = areas(torch.zeros(1, 1), torch.zeros(1, 1), 1)
    total = torch.full((4, 1), 2**24, dtype=torch.int64) + one
    assert int(total[0, 0]) == 2**24 + 1
    assert total.dtype == torch.int64


def test_a_class_nobody_has_is_in_no_mean_and_one_never_predicted_has_no_fscore() -> None:
    total = areas(torch.tensor([[0, 0, 0]]), torch.tensor([[0, 0, 1]]), 3)
    scores = class_scores(total)
    assert scores["iou"].tolist()[:2] == [2 / 3, 0]
    assert math.isnan(scores["iou"][2])
    assert math.isnan(scores["fscore"][1])
    assert scores["dice"][1] == 0
    found = summary(total)
    assert found["mIoU"] == pytest.approx(1 / 3)
    assert found["aAcc"] == pytest.approx(2 / 3)
    assert found["mFscore"] > found["mDice"]


def test_zero_becomes_unlabelled_and_the_others_move_down() -> None:
    label = torch.tensor([0, 1, 5, 255], dtype=torch.uint8)
    assert without_zero(label).tolist() == [255, 0, 4, 255]
    assert without_zero(torch.tensor([0, 1, 99]), 99).tolist() == [99, 0, 99]


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        areas(torch.zeros(2, 3), torch.zeros(3, 2), 2)
