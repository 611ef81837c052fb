"""Which place answers for which box, on boxes made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.detect.assign import NOTHING, UNKNOWN, Assigned, assign, centerness
from dinov3.detect.head import corners_of
from dinov3.detect.pyramid import places_of
from dinov3.detect.views import Truth

STRIDES, GRIDS = [4.0, 8.0], [(8, 8), (4, 4)]  # a view of 32 px
PLACES = places_of(GRIDS, STRIDES, torch.device("cpu"))


def truth(*rows: tuple[list[float], int, bool]) -> Truth:
    corners = torch.tensor([row[0] for row in rows]).view(-1, 4)
    return Truth(
        corners,
        torch.tensor([row[1] for row in rows], dtype=torch.int64),
        torch.tensor([row[2] for row in rows], dtype=torch.bool),
    )


def assigned(*rows: tuple[list[float], int, bool]) -> Assigned:
    return assign(truth(*rows), PLACES, [64, 16], STRIDES)


def fine(found: Assigned) -> Tensor:
    return found.box[:64].view(8, 8)


def test_places_are_the_centres_of_their_cells_row_by_row() -> None:
    assert PLACES[0].tolist() == [2, 2]
    assert PLACES[1].tolist() == [6, 2]
    assert PLACES[64 + 5].tolist() == [12, 12]


def test_places_near_the_centre_answer_and_no_other() -> None:
    found = assigned(([4, 4, 28, 28], 1, False))  # centre (16, 16); within 6 px of it: 14 and 18, on the fine level
    expected = torch.full((8, 8), NOTHING)
    expected[3:5, 3:5] = 0
    assert torch.equal(fine(found), expected)
    at = found.sides[found.box >= 0]
    assert torch.equal(corners_of(PLACES[found.box >= 0], at), torch.tensor([[4.0, 4, 28, 28]]).expand(len(at), 4))


def test_a_long_box_is_for_the_coarse_level_only() -> None:
    found = assigned(
        ([0, 0, 72, 72], 1, False)
    )  # centre (36, 36); from (30, 30) it reaches 42 px, beyond 8 strides of 4
    assert (fine(found) == NOTHING).all()
    coarse = torch.full((4, 4), NOTHING)
    coarse[3, 3] = 0  # (28, 28), less than 12 px off
    assert torch.equal(found.box[64:].view(4, 4), coarse)


def test_of_two_boxes_the_smaller_one_wins() -> None:
    found = assigned(([4, 4, 28, 28], 1, False), ([10, 10, 22, 22], 2, False))
    assert (fine(found)[3:5, 3:5] == 1).all()


def test_an_ignored_box_makes_its_places_unknown_unless_they_answer_for_another() -> None:
    found = assigned(([4, 4, 28, 28], 1, False), ([0, 0, 32, 16], 2, True))
    grid = fine(found)
    assert grid[3, 3] == 0
    assert grid[0, 0] == UNKNOWN
    assert grid[6, 0] == NOTHING


def test_a_view_without_boxes_is_all_background() -> None:
    assert (assigned().box == NOTHING).all()


def test_centerness_is_one_in_the_middle_and_less_towards_the_edges() -> None:
    sides = torch.tensor([[4.0, 4, 4, 4], [1, 4, 4, 4], [1, 1, 4, 4]])
    torch.testing.assert_close(centerness(sides), torch.tensor([1.0, 0.5, 0.25]))
