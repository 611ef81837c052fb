from __future__ import annotations

import pytest
import torch

from dinov3.losses.relative_l2 import relative_l2_loss


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_of_squared_distances_in_units_of_the_teachers_norm() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    assert relative_l2_loss(student, teacher).item() == pytest.approx((9 / 16 + 5 / 4) / 2)
    weights = torch.tensor([0.0, 2.0])
    assert relative_l2_loss(student, teacher, weights).item() == pytest.approx(5 / 4)


def test_the_unit_of_the_features_does_not_matter_but_their_length_does() -> None:
    student, teacher = randn(6, 5), randn(6, 5, seed=1)
    torch.testing.assert_close(relative_l2_loss(10 * student, 10 * teacher), relative_l2_loss(student, teacher))
    assert relative_l2_loss(2 * teacher, teacher).item() == pytest.approx(1.0)


def test_the_mean_over_parts_is_the_mean_over_all() -> None:
    student, teacher = randn(8, 5), randn(8, 5, seed=1)
    parts = [relative_l2_loss(s, t) for s, t in zip(student.split(2), teacher.split(2), strict=True)]
    torch.testing.assert_close(torch.stack(parts).mean(), relative_l2_loss(student, teacher))


def test_a_zero_teacher_and_no_rows_are_finite_with_a_gradient() -> None:
    for student in (randn(2, 3).requires_grad_(), randn(0, 3).requires_grad_()):
        relative_l2_loss(student, torch.zeros_like(student)).backward()
        assert student.grad is not None
        assert bool(torch.isfinite(student.grad).all())


def test_a_row_whose_teacher_is_zero_counts_as_the_squared_norm_of_the_student() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert relative_l2_loss(student, teacher).item() == pytest.approx((25 + 1) / 2)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = randn(2, 3, seed=1).requires_grad_()
    relative_l2_loss(randn(2, 3).requires_grad_(), teacher).backward()
    assert teacher.grad is None


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ValueError, match="rows differ"):
        relative_l2_loss(randn(2, 3), randn(2, 4))
