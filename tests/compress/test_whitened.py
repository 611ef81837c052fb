from __future__ import annotations

import pytest
import torch

from dinov3.compress.moments import Moments
from dinov3.compress.whitened import bias_for, factors, ranks_to_try, roots


def found(n: int = 10, out: int = 7) -> tuple[torch.Tensor, torch.Tensor, Moments]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(500, n, generator=generator) @ torch.randn(n, n, generator=generator)).double() + 2.0
    weight = torch.randn(out, n, generator=generator).double()
    root = torch.randn(out, out, generator=generator).double()
    return x, weight, Moments(x.mean(0), torch.cov(x.T, correction=0), root @ root.T)


def error(x: torch.Tensor, change: torch.Tensor, ours: Moments) -> float:
    """What a change of the matrix does to the features, the mean being in the bias."""
    off = (x - ours.mean) @ change.T
    return float(torch.einsum("no,op,np->n", off, ours.metric, off).mean())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_error_of_a_rank_is_what_the_outputs_lose(rank: int) -> None:
    x, weight, ours = found()
    made = factors(weight, ours, has_bias=True)
    product = made.second[:, :rank] @ made.first[:rank]
    assert float(made.errors[rank]) == pytest.approx(error(x, weight - product, ours), rel=0.15)  # ridges


def test_it_is_better_on_these_inputs_than_the_svd_of_the_weights() -> None:
    x, weight, ours = found()
    made = factors(weight, ours, has_bias=True)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    for rank in (1, 2, 4):
        plain = (u[:, :rank] * s[:rank]) @ v[:rank]
        best = made.second[:, :rank] @ made.first[:rank]
        assert error(x, weight - best, ours) < 0.9 * error(x, weight - plain, ours)


def test_the_full_rank_is_the_matrix_and_errors_fall() -> None:
    _, weight, ours = found()
    made = factors(weight, ours, has_bias=True)
    torch.testing.assert_close(made.second @ made.first, weight)
    assert made.errors.tolist() == sorted(made.errors.tolist(), reverse=True)
    assert float(made.errors[-1]) == 0.0


def test_the_mean_input_gives_the_same_output() -> None:
    _, weight, ours = found()
    made = factors(weight, ours, has_bias=True)
    product, bias = made.second[:, :2] @ made.first[:2], torch.ones(7).double()
    new = bias_for(weight, product, bias, ours.mean)
    assert new is not None
    torch.testing.assert_close(product @ ours.mean + new, weight @ ours.mean + bias)
    assert bias_for(weight, product, None, ours.mean) is None


def test_every_rank_that_is_tried_saves_parameters() -> None:
    for out, n, multiple in ((96, 96, 1), (384, 1536, 8), (10, 3, 1), (48, 48, 8)):
        ranks = ranks_to_try(out, n, multiple)
        assert all(r * (out + n) < out * n and r % multiple == 0 and r > 0 for r in ranks)
        assert ranks == sorted(ranks, reverse=True)
        assert len(ranks) <= 2 * 64
    assert ranks_to_try(4, 4, 8) == []


def test_roots_of_a_moment_without_rank_are_finite() -> None:
    moment = torch.zeros(4, 4)
    moment[0, 0] = 1.0
    root, unroot = roots(moment)
    assert bool(root.isfinite().all() and unroot.isfinite().all())
    torch.testing.assert_close(root @ unroot, torch.eye(4).double())
