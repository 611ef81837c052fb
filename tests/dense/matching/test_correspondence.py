from __future__ import annotations

import math

import pytest
import torch

from dinov3.dense.matching import correspondence as m


def test_a_shifted_image_is_matched_patch_by_patch() -> None:
    source = torch.randn(6, 8, 16)
    target = torch.roll(source, (1, 2), dims=(0, 1))
    shift = torch.tensor([[1.0, 0, 2 * 16], [0, 1, 16], [0, 0, 1]])
    found = m.match_homography(source, target, shift, 16)
    assert found.inside.view(6, 8)[:5, :6].all()
    assert int(found.inside.sum()) == 30
    assert (found.error[found.inside] < 1e-9).all()
    assert found.mutual.all()


def test_descriptors_at_patch_centres_are_the_patches_and_between_them_the_blend() -> None:
    features = torch.randn(3, 4, 5)
    centres = m.centres((3, 4), 16)
    for how in ("nearest", "bilinear"):
        torch.testing.assert_close(m.descriptors(features, centres, 16, how), features.double().flatten(0, 1))
    middle = m.descriptors(features, torch.tensor([[16.0, 8.0]]), 16, "bilinear")
    torch.testing.assert_close(middle[0], (features[0, 0] + features[0, 1]).double() / 2)
    outside = m.descriptors(features, torch.tensor([[-5.0, 1000.0]]), 16, "bilinear")
    torch.testing.assert_close(outside[0], features[2, 0].double())


def test_bilinear_works_on_a_grid_of_one_row() -> None:
    features = torch.randn(1, 1, 5)
    torch.testing.assert_close(
        m.descriptors(features, torch.tensor([[3.0, 4.0]]), 16, "bilinear")[0], features[0, 0].double()
    )


def test_ties_go_to_the_lowest_number() -> None:
    target = torch.ones(4, 4, 3)
    assert m.best_match(torch.ones(7, 3), target)[0].tolist() == [0] * 7


def test_a_threshold_includes_its_end_and_averages_differ_by_who_is_counted() -> None:
    near, far = torch.tensor([1.0]), torch.tensor([1.0, 9.0, 9.0])
    assert m.pck(torch.tensor([2.0, 2.1]), 20, 0.1) == 0.5
    assert m.recall(torch.tensor([8.0, 8.1]), 8) == 0.5
    found = m.pooled_pck([near, far], [10, 10], 0.1)
    assert found == {"per_point": pytest.approx(0.5), "per_pair": pytest.approx((1 + 1 / 3) / 2)}
    assert math.isnan(m.recall(torch.zeros(0), 1))


def test_lengths_are_the_longer_sides() -> None:
    points = torch.tensor([[3.0, 4.0], [10.0, 30.0]])
    assert m.box_of(points) == (3, 4, 10, 30)
    assert m.box_length(points) == 26
    assert m.image_length(120, 160) == 160
