"""The loss of masks: the assignment is the best of all, terms are those of the paper, images are averaged one by one."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from dinov3.segment.mask_loss import CLASS, DICE, MASK, NO_OBJECT, dice, mask_loss, matched

Q, K, SIDE = 4, 5, 6


@pytest.fixture
def said() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, Q, K + 1, generator=generator), torch.randn(3, Q, SIDE, SIDE, generator=generator)


@pytest.fixture
def truth() -> torch.Tensor:
    found = torch.randint(0, K, (3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    found[0] = (found[0] > 2).int() * 3  # classes 0 and 3
    found[1, :3] = 255
    found[1, 3:] = 4
    found[2] = (found[2] % 3).int()
    return found


def cost(classes: torch.Tensor, logits: torch.Tensor, wanted: torch.Tensor, number: int) -> torch.Tensor:
    apart = F.binary_cross_entropy_with_logits(logits, wanted)
    return -CLASS * classes.softmax(0)[number] + MASK * apart + DICE * dice(logits.sigmoid()[None], wanted[None])[0]


def test_no_other_assignment_costs_less(said: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor) -> None:
    classes, logits = said[0][2], said[1][2].flatten(1)
    present = truth[2].unique().long()
    wanted = (truth[2].flatten()[None] == present[:, None]).float()
    query, mask = matched(classes, logits, wanted, present)

    def total(chosen: list[int]) -> float:
        return sum(float(cost(classes[q], logits[q], wanted[m], int(present[m]))) for m, q in enumerate(chosen))

    own = [int(query[mask == m]) for m in range(len(present))]
    assert total(own) == pytest.approx(min(total(list(p)) for p in permutations(range(Q), len(present))), abs=1e-5)


def test_the_right_answer_costs_nothing_and_its_terms_are_those_of_the_paper(truth: torch.Tensor) -> None:
    present = truth[0].unique()
    classes = torch.full((1, Q, K + 1), -50.0)
    masks = torch.full((1, Q, SIDE, SIDE), -50.0)
    classes[..., K] = 50
    for query, number in enumerate(present.flip(0)):  # any order of queries
        classes[0, query] = -50
        classes[0, query, number] = 50
        masks[0, query][truth[0] == number] = 50
    terms = mask_loss(classes, masks, truth[:1], 255)
    assert all(float(value) < 1e-4 for value in terms.values())
    classes[0, 0] = 0  # one matched query that says nothing: cross entropy ln 6, of weights 1, 1 and 0.1 twice
    found = mask_loss(classes, masks, truth[:1], 255)["class_loss"]
    assert float(found) == pytest.approx(CLASS * float(torch.tensor(6.0).log()) / (2 + 2 * NO_OBJECT), rel=1e-5)


def test_a_batch_is_the_mean_of_its_images(said: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor) -> None:
    whole = mask_loss(*said, truth, 255)
    parts = [mask_loss(said[0][i : i + 1], said[1][i : i + 1], truth[i : i + 1], 255) for i in range(3)]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(part[name]) for part in parts) / 3, rel=1e-6)


def test_unlabelled_pixels_count_nowhere(said: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor) -> None:
    classes, masks = said
    other = masks.clone()
    other[1, :, :3] = 9.0  # where the truth of image 1 is unlabelled
    first, second = mask_loss(classes, masks, truth, 255), mask_loss(classes, other, truth, 255)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_image_without_labels_has_loss_0_and_a_gradient(said: tuple[torch.Tensor, torch.Tensor]) -> None:
    classes, masks = (x.clone().requires_grad_() for x in said)
    total = torch.stack([*mask_loss(classes, masks, torch.full((3, SIDE, SIDE), 255), 255).values()]).sum()
    total.backward()
    assert float(total.detach()) == 0
    assert float(classes.grad.abs().sum()) == float(masks.grad.abs().sum()) == 0


def test_more_classes_than_queries_are_as_many_masks_as_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(K).repeat_interleave(2).view(1, 1, 2 * K)
    terms = mask_loss(torch.zeros(1, 2, K + 1), torch.randn(1, 2, 1, 2 * K, generator=generator), truth, 255)
    assert all(bool(value.isfinite()) for value in terms.values())


def test_what_is_not_finite_reaches_the_trainer_as_a_loss_that_is_not(
    said: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor
) -> None:
    terms = mask_loss(said[0], said[1] * torch.nan, truth, 255)
    assert bool(terms["mask_loss"].isnan())
