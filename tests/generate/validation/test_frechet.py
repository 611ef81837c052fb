from __future__ import annotations

import pytest
import torch

from dinov3.generate.validation.frechet import frechet_distance


def test_of_gaussians_with_equal_axes_it_is_the_formula_by_hand() -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=random, dtype=torch.float64)
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T))).T  # exactly mean 0, covariance 1
    scales, moved = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.0, -2.0])
    assert frechet_distance(a, a * scales + moved) == pytest.approx(5 + (1 + 0 + 0.25), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_fewer_images_than_dimensions_are_finite_and_one_is_too_few() -> None:
    a, b = torch.randn(4, 32), torch.randn(5, 32)
    assert 0 < frechet_distance(a, b) < float("inf")
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(a[:1], b)
