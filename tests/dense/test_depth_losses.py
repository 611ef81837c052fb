from __future__ import annotations

import math

import pytest
import torch

from dinov3.dense.depth_losses import EPS, SCALES, SigLoss, gradient_loss, sig_loss


def test_sigloss_forgives_a_common_factor_in_part_and_counts_its_calls() -> None:
    truth = torch.rand(1, 1, 6, 6) + 1
    valid = torch.ones_like(truth, dtype=torch.bool)
    doubled = 2 * (truth + EPS) - EPS
    warm = float(sig_loss(doubled, truth, valid, warm=True))
    assert warm == pytest.approx(math.sqrt(0.15) * math.log(2), rel=1e-5)
    assert float(sig_loss(doubled, truth, valid, warm=False)) == pytest.approx(warm, rel=1e-3)  # no variance to add
    loss = SigLoss()
    noisy = truth * (1 + 0.3 * torch.rand_like(truth))
    values = [float(loss(noisy, truth, valid)) for _ in range(102)]
    assert values[0] == values[99]
    assert values[100] > values[99]


@pytest.mark.parametrize("log", [False, True])
def test_the_gradient_loss_is_that_of_a_loop_over_pixels(log: bool) -> None:
    p, g = (torch.rand(2, 1, 9, 11) + 0.5 for _ in range(2))
    valid = torch.rand(2, 1, 9, 11) > 0.25
    total = 0.0
    for step in SCALES:
        a, b, v = (x[:, 0, ::step, ::step] for x in (p, g, valid))
        error = (a + EPS).log() - (b + EPS).log() if log else a - b
        n, rows, columns = v.shape
        summed = 0.0
        for i in range(n):
            for y in range(rows):
                for x in range(columns):
                    if y + 2 < rows and v[i, y, x] and v[i, y + 2, x]:
                        summed += abs(float(error[i, y, x] - error[i, y + 2, x]))
                    if x + 2 < columns and v[i, y, x] and v[i, y, x + 2]:
                        summed += abs(float(error[i, y, x] - error[i, y, x + 2]))
        total += summed / int(v.sum())
    assert float(gradient_loss(p, g, valid, log=log)) == pytest.approx(total, rel=1e-4)


def test_an_invalid_pixel_has_no_gradient_even_where_the_truth_is_not_a_number() -> None:
    p = (torch.rand(1, 1, 8, 8) + 0.5).requires_grad_()
    truth = torch.rand(1, 1, 8, 8) + 0.5
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 2, 3], truth[..., 2, 3] = False, torch.nan
    gradient_loss(p, truth, valid).backward()
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()
    assert p.grad[0, 0, 2, 3] == 0
