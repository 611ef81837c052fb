from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from dinov3.compress.moments import Moments
from dinov3.compress.removal import RIDGE, compensated, mean_folded, removal_curve, variance_curve


def activations(n: int = 8, rows: int = 400, seed: int = 0) -> Tensor:
    """[rows, n] float64: correlated, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, n, generator=generator) @ torch.randn(n, n, generator=generator)
    return mixed.double() + torch.arange(n)


def of(a: Tensor, metric: Tensor) -> Moments:
    return Moments(a.mean(0), torch.cov(a.T, correction=0), metric)


def setup(n: int = 8, out: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Moments]:
    a = activations(n, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    weight, bias = torch.randn(out, n, generator=generator).double(), torch.randn(out, generator=generator).double()
    root = torch.randn(out, out, generator=generator).double()
    return a, weight, bias, of(a, root @ root.T)


@pytest.mark.parametrize("width", [1, 2])
def test_compensation_is_the_least_squares_fit_with_the_kept_units(width: int) -> None:
    a, weight, bias, found = setup()
    kept = torch.tensor([0, 3])
    channels = kept if width == 1 else torch.tensor([0, 1, 6, 7])
    rows = torch.cat([a[:, channels], torch.ones(len(a), 1)], dim=1)
    wanted = torch.linalg.lstsq(rows, a @ weight.T + bias).solution.T
    best, best_bias = compensated(weight, bias, found, kept, width=width)
    torch.testing.assert_close(best, wanted[:, :-1], rtol=2e-2, atol=2e-2)  # the ridge is 1e-3 of the variance
    torch.testing.assert_close(best_bias, wanted[:, -1], rtol=2e-2, atol=5e-2)


def test_without_a_bias_the_fit_is_through_the_origin() -> None:
    a, weight, _, found = setup()
    kept = torch.tensor([1, 2, 5])
    wanted = torch.linalg.lstsq(a[:, kept], a @ weight.T).solution.T
    best, bias = compensated(weight, None, found, kept, width=1)
    assert bias is None
    # the ridge holds the directions with little variance
    assert float((a[:, kept] @ (best - wanted).T).norm() / (a @ weight.T).norm()) < 0.02


def test_keeping_all_changes_nothing() -> None:
    _, weight, bias, found = setup()
    best, best_bias = compensated(weight, bias, found, torch.arange(8), width=1)
    torch.testing.assert_close(best, weight)
    torch.testing.assert_close(best_bias, bias)


@pytest.mark.parametrize("width", [1, 2])
def test_the_error_of_a_curve_is_what_the_compensated_layer_leaves(width: int) -> None:
    a, weight, bias, found = setup()
    for left in removal_curve(weight, found.cov, found.metric, width=width, multiple=1)[1:]:
        best, best_bias = compensated(weight, bias, found, left.kept, width=width)
        channels = (left.kept[:, None] * width + torch.arange(width)).flatten()
        assert best_bias is not None
        off = a @ weight.T + bias - a[:, channels] @ best.T - best_bias
        change = weight.clone()
        change[:, channels] -= best
        ridge = RIDGE * found.cov.diagonal().mean() * (change * (found.metric @ change)).sum()
        measured = torch.einsum("no,op,np->n", off, found.metric, off).mean()
        assert left.error == pytest.approx(float(measured + ridge), rel=1e-6)


def test_the_first_removed_unit_is_the_one_a_search_removes() -> None:
    a, weight, bias, found = setup(seed=3)

    def left_by(kept: tuple[int, ...]) -> float:
        rows = torch.cat([a[:, list(kept)], torch.ones(len(a), 1)], dim=1)
        target = a @ weight.T + bias
        off = target - rows @ torch.linalg.lstsq(rows, target).solution
        return float(torch.einsum("no,op,np->n", off, found.metric, off).mean())

    best = min(combinations(range(8), 7), key=left_by)
    assert removal_curve(weight, found.cov, found.metric, width=1, multiple=1)[1].kept.tolist() == list(best)


def test_a_unit_that_others_can_say_costs_nothing_whatever_its_norm() -> None:
    a, weight, _, _ = setup()
    a[:, 4] = 3 * a[:, 0] - a[:, 1]
    weight[:, 4] *= 10
    found = of(a, torch.eye(5).double())
    first = removal_curve(weight, found.cov, found.metric, width=1, multiple=1)[1]
    assert set(range(8)) - set(first.kept.tolist()) <= {0, 1, 4}
    assert first.error < 0.02 * float(found.cov.diagonal()[4] * weight[:, 4].square().sum())


def test_widths_of_a_curve_are_multiples_and_fall_to_one_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    a, weight = activations(30, 200), torch.randn(4, 30, generator=generator)
    curve = removal_curve(weight, torch.cov(a.T), torch.eye(4), width=1, multiple=8)
    assert [len(left.kept) for left in curve] == [30, 24, 16, 8]
    assert [left.error for left in curve] == sorted(left.error for left in curve)
    folded = variance_curve(weight, of(a, torch.eye(4).double()), multiple=8)
    assert [len(left.kept) for left in folded] == [30, 24, 16, 8]


def test_a_folded_mean_makes_up_for_units_that_do_not_vary() -> None:
    a, weight, bias, _ = setup()
    a[:, [2, 6]] = torch.tensor([5.0, -3.0]).double()
    found = of(a, torch.eye(5).double())
    six = next(left for left in variance_curve(weight, found, multiple=1) if len(left.kept) == 6)
    assert six.kept.tolist() == [0, 1, 3, 4, 5, 7]
    assert six.error == pytest.approx(0.0, abs=1e-12)
    columns, new_bias = mean_folded(weight, bias, found, six.kept)
    torch.testing.assert_close(a[:, six.kept] @ columns.T + new_bias, a @ weight.T + bias)
