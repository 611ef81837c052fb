from __future__ import annotations

import pytest
import torch

from dinov3.dense.video.smoothing import Smoother


def test_a_constant_video_stays_constant() -> None:
    x, smooth = torch.randn(6, 4), Smoother()
    for _ in range(10):
        torch.testing.assert_close(smooth(x), x)
    assert smooth.resets == 0


def test_a_step_is_followed_by_one_minus_three_tenths_to_the_k() -> None:
    smooth = Smoother(0.7)
    base, step = torch.full((4, 8), 10.0), torch.full((4, 8), 10.5)  # one direction: the cosine sees no cut
    smooth(base)
    for k in range(1, 6):
        torch.testing.assert_close(smooth(step), base + 0.5 * (1 - 0.3**k))


def test_white_noise_keeps_the_share_of_its_variance_that_the_formula_says() -> None:
    generator, smooth = torch.Generator().manual_seed(0), Smoother(0.7)
    frames = [smooth(torch.randn(64, 32, generator=generator)) for _ in range(200)]
    assert smooth.resets == 0
    assert float(torch.stack(frames[20:]).var()) == pytest.approx(0.7 / 1.3, rel=0.02)


def test_a_cut_and_another_shape_begin_anew() -> None:
    smooth = Smoother()
    here, there = torch.randn(16, 8), torch.randn(16, 8)
    for i in range(4):
        smooth(here + 0.01 * i)
    assert torch.equal(smooth(there), there)
    assert smooth.resets == 1
    other = torch.randn(9, 8)
    assert torch.equal(smooth(other), other)
    assert smooth.resets == 2


def test_no_graph_and_no_more_than_a_few_numbers_are_kept() -> None:
    smooth = Smoother()
    x = torch.randn(4, 4, requires_grad=True)
    assert not smooth(x).requires_grad
    for _ in range(50):
        smooth(x)
    assert len(smooth._changes) == 5


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5, float("nan")])
def test_a_weight_without_a_meaning_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Smoother(alpha)
