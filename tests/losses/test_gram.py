from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.losses.gram import gram_loss, negatives_rule


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(student: Tensor, teacher: Tensor) -> float:
    """Mean squared difference of cosines over the pairs of tokens of each image."""
    errors = []
    for s, t in zip(student.double(), teacher.double(), strict=True):
        for i in range(len(s)):
            for j in range(len(s)):
                cosines = [float(x[i] @ x[j] / x[i].norm() / x[j].norm()) for x in (s, t)]
                errors.append((cosines[0] - cosines[1]) ** 2)
    return sum(errors) / len(errors)


def test_gram_is_the_mean_squared_difference_of_cosines() -> None:
    student, teacher = randn(2, 5, 3), randn(2, 5, 7, seed=1)  # the widths may differ
    assert gram_loss(student, teacher).item() == pytest.approx(by_loops(student, teacher), rel=1e-5)
    batch_level = by_loops(student.flatten(0, 1)[None], teacher.flatten(0, 1)[None])
    assert gram_loss(student, teacher, img_level=False).item() == pytest.approx(batch_level, rel=1e-5)


def test_gram_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert gram_loss(student, teacher, img_level=False).item() == pytest.approx(2 / 4)  # off-diagonal 0 and 1
    # dot products: 9, 0, 0, 4 against 1, 1, 1, 1
    assert gram_loss(student, teacher, normalize=False, img_level=False).item() == pytest.approx((64 + 1 + 1 + 9) / 4)


def test_equal_tokens_cost_nothing_and_scale_does_not_matter() -> None:
    tokens, other = randn(2, 5, 8), randn(2, 5, 8, seed=1)
    assert gram_loss(tokens * 3, tokens).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gram_loss(tokens * 3, other), gram_loss(tokens, other))


def test_the_size_of_the_loss_does_not_follow_the_number_of_tokens() -> None:
    small = gram_loss(randn(8, 16, 64), randn(8, 16, 64, seed=1)).item()
    large = gram_loss(randn(8, 64, 64), randn(8, 64, 64, seed=1)).item()
    assert large == pytest.approx(small, rel=0.25)


STUDENT = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # cosine -1
TEACHER = torch.tensor([[2.0, 0.0], [-0.6, 0.8]])  # cosine -0.6


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [
        ("keep", (-1 + 0.6) ** 2 / 2),
        ("zero_both", 0),
        ("zero_teacher", 1 / 2),  # the official number of remove_only_teacher_neg: -1 against 0
        ("zero_shared", 0),  # what the option says: both negative, so both 0
    ],
)
def test_negative_similarities(negatives: Any, expected: float) -> None:
    value = gram_loss(STUDENT, TEACHER, img_level=False, negatives=negatives)
    assert value.item() == pytest.approx(expected, abs=1e-7)


def test_zero_shared_leaves_the_student_alone_where_the_teacher_is_positive() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    value = gram_loss(STUDENT, teacher, img_level=False, negatives="zero_shared")
    assert value.item() == pytest.approx((-1 - 0.6) ** 2 / 2)
    both = gram_loss(STUDENT, teacher, img_level=False, negatives="zero_both")
    assert both.item() == pytest.approx(0.6**2 / 2)


def test_the_arguments_are_not_edited() -> None:
    student, teacher = STUDENT.clone(), TEACHER.clone()
    gram_loss(student, teacher, img_level=False, normalize=False, negatives="zero_both")
    assert torch.equal(student, STUDENT)
    assert torch.equal(teacher, TEACHER)


def test_the_config_keys_become_one_rule() -> None:
    assert [negatives_rule(False, False), negatives_rule(True, False)] == ["keep", "zero_both"]
    assert negatives_rule(False, True) == "zero_teacher"
    assert negatives_rule(False, True, "published") == "zero_shared"
    with pytest.raises(ValueError, match="both true"):
        negatives_rule(True, True)


@pytest.mark.parametrize("img_level", [True, False])
def test_a_subset_is_the_same_on_both_sides_and_repeats_with_the_seed(img_level: bool) -> None:
    tokens = randn(2, 12, 6)
    options: dict[str, Any] = {"img_level": img_level, "max_tokens": 5}
    same = gram_loss(tokens, tokens.clone(), generator=torch.Generator().manual_seed(0), **options)
    assert same.item() == 0
    teacher = randn(2, 12, 6, seed=1)
    first, again, other = (
        gram_loss(tokens, teacher, generator=torch.Generator().manual_seed(seed), **options) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_subset_compares_only_the_drawn_tokens() -> None:
    student, teacher = randn(2, 12, 6).requires_grad_(), randn(2, 12, 6, seed=1)
    generator = torch.Generator().manual_seed(0)
    value = gram_loss(student, teacher, max_tokens=5, generator=generator)
    (grad,) = torch.autograd.grad(value, student)
    touched = grad.abs().sum((0, 2)).nonzero().flatten()
    assert len(touched) == 5
    torch.testing.assert_close(value.detach(), gram_loss(student.detach()[:, touched], teacher[:, touched]))


@pytest.mark.parametrize("max_tokens", [12, 99])
def test_a_subset_of_all_tokens_is_exact_and_draws_nothing(max_tokens: int) -> None:
    student, teacher = randn(2, 12, 6), randn(2, 12, 6, seed=1)
    assert torch.equal(gram_loss(student, teacher, max_tokens=max_tokens), gram_loss(student, teacher))


def test_no_token_is_zero_with_a_graph() -> None:
    student = torch.zeros(0, 6, requires_grad=True)
    value = gram_loss(student, torch.zeros(0, 6), img_level=False)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None


def test_autocast_does_not_lower_the_precision() -> None:
    student, teacher = randn(2, 12, 64), randn(2, 12, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram_loss(student, teacher)
    assert torch.equal(inside, gram_loss(student, teacher))
    assert torch.equal(gram_loss(student.bfloat16(), teacher), gram_loss(student.bfloat16().float(), teacher))


def test_wrong_calls_say_what_is_wrong() -> None:
    tokens = randn(2, 4, 3)
    with pytest.raises(ValueError, match="gram tokens differ"):
        gram_loss(tokens, randn(2, 5, 3))
    with pytest.raises(ValueError, match=r"gram\.img_level needs tokens by image"):
        gram_loss(tokens[0], tokens[0])
    with pytest.raises(ValueError, match="'drop': choose from"):
        gram_loss(tokens, tokens, negatives="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tokens 2 of 4 tokens: a generator"):
        gram_loss(tokens, tokens, max_tokens=2)
