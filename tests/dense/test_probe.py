from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.dense.heads import fit_ridge_head, logits_of, over_views
from dinov3.dense.linear_head import LinearHead
from dinov3.dense.probe import Fit, chosen_rows, fit_head, fit_ridge


def test_ridge_is_what_the_normal_equations_give_and_scale_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator) * torch.tensor([1.0, 10, 100, 0.1, 1])
    y = x @ torch.randn(5, 2, generator=generator) + 3
    held = torch.arange(200) % 5 == 4
    ridge = fit_ridge(x, y, held, penalties=(1e-9, 1.0))
    assert ridge.penalty == 1e-9
    torch.testing.assert_close(x @ ridge.weight + ridge.bias, y, rtol=1e-3, atol=1e-2)


def test_a_row_of_no_weight_is_as_if_it_were_not_there() -> None:
    x, y = torch.randn(60, 3), torch.randn(60, 1)
    held, weights = torch.arange(60) % 5 == 4, torch.ones(60)
    wrong = torch.cat([y, 1000 * torch.ones(60, 1)])
    both = fit_ridge(
        torch.cat([x, x]), wrong, torch.cat([held, held]), weights=torch.cat([weights, 0 * weights]), penalties=(0.1,)
    )
    alone = fit_ridge(x, y, held, weights=weights, penalties=(0.1,))
    torch.testing.assert_close(both.bias, alone.bias, rtol=1e-3, atol=1e-3)


def test_the_regression_and_its_convolution_agree() -> None:
    maps, targets = torch.randn(6, 4, 3, 5), torch.randn(6, 15, 2)
    head, ridge = fit_ridge_head(maps, targets, torch.ones(6, 15))
    by_hand = maps[0].flatten(1).T @ ridge.weight + ridge.bias
    torch.testing.assert_close(logits_of(head, maps[0]).flatten(1).T, by_hand, rtol=1e-4, atol=1e-5)


def test_the_mirrored_view_is_turned_back_before_the_mean() -> None:
    def scores(patches: Tensor, size: tuple[int, int]) -> Tensor:
        return patches

    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(over_views(scores, [x, x.flip(-1)], (3, 4)), x)


def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (24, 4, 4), generator=generator)
    maps = F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    return maps + 0.3 * torch.randn(24, 3, 4, 4, generator=generator), labels


def trained(seed: int = 0, steps: int = 60) -> nn.Module:
    maps, labels = problem()

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rows = chosen_rows(24, 8, seed, step)
        return maps[rows], labels[rows]

    return fit_head(partial(LinearHead, [3], 3), batch_at, F.cross_entropy, Fit(steps, 8, lr=0.05, warmup=5, seed=seed))


def test_a_head_learns_what_is_linear_and_is_a_function_of_its_seed() -> None:
    maps, labels = problem()
    head = trained()
    assert (head([maps]).argmax(1) == labels).float().mean() > 0.9
    torch.manual_seed(123)  # whatever ran before
    again = trained()
    for a, b in zip(head.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(head.parameters(), trained(1).parameters(), strict=True))


def test_fitting_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_a_head_is_fitted_where_only_deterministic_operators_are_allowed() -> None:
    free = trained(steps=3)
    torch.use_deterministic_algorithms(True)
    try:
        strict = trained(steps=3)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(free.parameters(), strict.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_image_comes_once_a_pass() -> None:
    rows = [row for step in range(6) for row in chosen_rows(9, 3, 0, step)]
    assert sorted(rows[:9]) == sorted(rows[9:]) == list(range(9))
    assert rows[:9] != rows[9:]


def test_the_rate_rises_then_falls_to_nothing() -> None:
    fit = Fit(steps=100, lr=1.0, warmup=10)
    assert fit.rate(0) == pytest.approx(0.1)
    assert fit.rate(9) == fit.rate(10) == 1.0
    assert fit.rate(99) < 0.001


def test_a_loss_that_is_no_number_ends_the_fit() -> None:
    with pytest.raises(FloatingPointError, match="step 0"):
        fit_head(
            partial(LinearHead, [3], 3),
            lambda step: (torch.full((2, 3, 2, 2), torch.nan), torch.zeros(2, 2, 2, dtype=torch.int64)),
            F.cross_entropy,
            Fit(steps=2),
        )
