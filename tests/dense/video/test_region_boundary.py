from __future__ import annotations

import math

import pytest
import torch

from dinov3.dense.video.region_boundary import boundary, outline, per_object, region, thickened


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 30])
def test_a_disk_is_what_measuring_every_distance_gives(radius: int) -> None:
    mask = torch.rand(9, 13, generator=torch.Generator().manual_seed(radius)) > 0.95
    there = mask.nonzero().double()
    y, x = torch.meshgrid(torch.arange(9), torch.arange(13), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], 1).double()
    near = (torch.cdist(places, there) <= radius + 1e-9).any(1).view(9, 13)
    assert torch.equal(thickened(mask, radius), near)


def square(top: int, left: int) -> torch.Tensor:
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[top : top + 30, left : left + 30] = True
    return mask


def test_equal_masks_score_one_and_strangers_zero() -> None:
    a, b = square(10, 10), square(60, 60)
    assert (region(a, a), boundary(a, a)) == (1.0, 1.0)
    assert (region(a, b), boundary(a, b)) == (0.0, 0.0)
    nothing = torch.zeros_like(a)
    assert (region(nothing, nothing), boundary(nothing, nothing)) == (1.0, 1.0)
    assert (region(nothing, a), boundary(nothing, a)) == (0.0, 0.0)


def test_a_shift_within_the_tolerance_keeps_the_outline_and_costs_the_region() -> None:
    radius = math.ceil(0.008 * math.hypot(100, 100))
    a, b = square(10, 10), square(10, 10 + radius)
    assert boundary(a, b) == 1.0
    assert region(a, b) == pytest.approx((30 - radius) / (30 + radius))
    assert boundary(a, square(10, 10 + 4 * radius)) < 0.8


def test_the_outline_of_a_square_is_its_rim() -> None:
    assert 100 < int(outline(square(10, 10)).sum()) < 140
    assert not outline(torch.ones(5, 5, dtype=torch.bool)).any()


def test_objects_are_scored_by_their_numbers() -> None:
    truth = torch.zeros(20, 20, dtype=torch.int64)
    truth[:5], truth[10:15] = 4, 9
    scores = per_object(truth, truth, [4, 9])
    assert scores == [(1.0, 1.0), (1.0, 1.0)]
