from __future__ import annotations

import pytest
import torch

from dinov3.generate.times import flow_losses, noised, times_of, velocity_of


def test_the_line_begins_at_the_image_and_ends_at_the_noise() -> None:
    images, noise = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    assert torch.equal(noised(images, noise, torch.zeros(2)), images)
    assert torch.equal(noised(images, noise, torch.ones(2)), noise)


def test_the_true_velocity_has_no_loss_and_leads_back_to_the_image() -> None:
    images, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0.2, 0.5, 0.9])
    velocity = velocity_of(images, noise)
    assert torch.equal(flow_losses(velocity, images, noise), torch.zeros(3))
    back = noised(images, noise, t) - t[:, None, None, None] * velocity
    torch.testing.assert_close(back, images, rtol=1e-5, atol=1e-5)


def test_times_keep_off_the_ends_and_half_of_them_are_early() -> None:
    t = times_of(torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 5)
    assert float(t.min()) == pytest.approx(0.001)
    assert float(t.max()) == pytest.approx(0.999)
    assert float((t < 0.5).float().mean()) == pytest.approx(0.5, abs=0.02)
