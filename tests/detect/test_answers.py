"""Boxes that are said: scores, and of overlapping ones the best."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3.data.torchvision_compat import import_torchvision, operators_load
from dinov3.detect.answers import MOST, answers, plain_nms


def boxes(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    corner, sides = torch.rand(n, 2, generator=random) * 40, 5 + torch.rand(n, 2, generator=random) * 30
    return (
        torch.cat([corner, corner + sides], 1),
        torch.rand(n, generator=random),
        torch.randint(0, 3, (n,), generator=random),
    )


def test_no_two_kept_boxes_of_a_class_overlap_and_every_dropped_one_does() -> None:
    corners, scores, classes = boxes(60, 0)
    kept = plain_nms(corners, scores, classes, 0.3)
    assert (scores[kept].diff() <= 0).all()
    near = import_torchvision("torchvision.ops").box_iou(corners, corners) > 0.3
    near &= classes[:, None] == classes
    assert near[kept][:, kept].sum() == len(kept)  # each with itself
    for number in set(range(60)) - set(kept.tolist()):
        better = kept[scores[kept] > scores[number]]
        assert near[number, better].any()


@pytest.mark.skipif(not operators_load(), reason="torchvision's compiled part does not fit this torch")
@pytest.mark.parametrize("seed", range(3))
def test_the_plain_way_is_that_of_torchvision(seed: int) -> None:
    corners, scores, classes = boxes(80, seed)
    theirs = import_torchvision("torchvision.ops").batched_nms(corners, scores, classes, 0.4)
    assert plain_nms(corners, scores, classes, 0.4).tolist() == theirs.tolist()


def test_boxes_are_cut_to_the_view_and_low_scores_are_not_said() -> None:
    corners = torch.tensor([[[-5.0, 2, 50, 60], [30, 30, 36, 36]]])
    scores = torch.tensor([[[0.9, 0.01], [0.2, 0.04]]])
    (found,) = answers(scores, corners, (40, 30), least_score=0.05, overlap=0.6)
    assert found.corners.tolist() == [[0, 2, 40, 30], [30, 30, 36, 30]]
    assert found.classes.tolist() == [0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])


def test_of_very_many_the_best_hundred_are_said_and_of_none_nothing() -> None:
    corners = torch.arange(300.0)[:, None] * 10 + torch.tensor([0.0, 0, 9, 9])
    scores = torch.linspace(0.1, 0.9, 300)[:, None]
    (found,) = answers(scores[None], corners[None], (4000, 4000), least_score=0.05, overlap=0.6)
    assert len(found.scores) == MOST
    assert found.scores[0] == scores.max()
    (none,) = answers(scores[None] * 0, corners[None], (4000, 4000), least_score=0.05, overlap=0.6)
    assert none.corners.shape == (0, 4)
