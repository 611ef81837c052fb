from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinov3.losses.cosine import cosine_loss


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_right_angled_and_opposite_tokens_cost_zero_one_and_two() -> None:
    student = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])
    teacher = torch.tensor([[0.5, 0.0], [0.0, 9.0], [-2.0, 0.0]])
    for row, expected in enumerate([0, 1, 2]):
        assert cosine_loss(student[row : row + 1], teacher[row : row + 1]).item() == pytest.approx(expected)
    assert cosine_loss(student, teacher).item() == pytest.approx(1)


def test_it_is_one_minus_the_mean_cosine() -> None:
    student, teacher = randn(2, 5, 8), randn(2, 5, 8, seed=1)
    expected = 1 - torch.cosine_similarity(student, teacher, dim=-1).mean()
    torch.testing.assert_close(cosine_loss(student, teacher), expected)


def test_weights_make_a_weighted_mean() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert cosine_loss(student, teacher, torch.tensor([3.0, 1.0])).item() == pytest.approx(2 / 4)
    assert cosine_loss(student, teacher, torch.tensor([30.0, 10.0])).item() == pytest.approx(2 / 4)


@pytest.mark.parametrize(("rows", "weights"), [(0, None), (0, torch.zeros(0)), (3, torch.zeros(3))])
def test_nothing_to_compare_is_zero_with_a_graph(rows: int, weights: Tensor | None) -> None:
    student = randn(rows, 4).requires_grad_()
    value = cosine_loss(student, randn(rows, 4, seed=1), weights)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_a_zero_vector_is_at_right_angles_to_everything_and_takes_no_gradient() -> None:
    student = torch.stack([torch.zeros(4), torch.ones(4)]).requires_grad_()
    value = cosine_loss(student, torch.ones(2, 4))
    value.backward()
    assert value.item() == pytest.approx(0.5)
    assert student.grad is not None
    assert not student.grad[0].any()
    assert torch.isfinite(student.grad).all()


def test_half_precision_tokens_are_compared_in_fp32() -> None:
    student, teacher = randn(5, 8).bfloat16(), randn(5, 8, seed=1).half()
    value = cosine_loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, cosine_loss(student.float(), teacher.float()))


def test_rows_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(5, 8\), \(4, 8\)"):
        cosine_loss(randn(5, 8), randn(4, 8))
    with pytest.raises(ValueError, match=r"\(5, 8\), \(5, 8\), \(4,\)"):
        cosine_loss(randn(5, 8), randn(5, 8), torch.ones(4))
