from __future__ import annotations

import pytest
import torch

from dinov3.dense.matching.correspondence import best_match
from dinov3.dense.matching.position_bias import estimate_position_bias, noise_images, position_part, without_position


def features(n: int, strength: float, seed: int) -> torch.Tensor:
    """Content ``[n, 32, 6, 6]`` and, along two directions, the place: as a biased backbone has it."""
    generator = torch.Generator().manual_seed(seed)
    content = torch.randn(n, 32, 6, 6, generator=generator)
    place = torch.zeros(32, 6, 6)
    place[3] = torch.linspace(-1, 1, 6)[:, None]
    place[7] = torch.linspace(-1, 1, 6)[None]
    return content + strength * place


def test_the_place_is_found_removed_and_nothing_else_is() -> None:
    bias = estimate_position_bias(features(64, 3.0, 0), 0.95)
    assert bias.directions.shape == (32, 2)
    spanned = bias.directions.pow(2).sum(1)
    assert spanned[[3, 7]].min() > 0.95
    expected = 3.0**2 * 2 * float(torch.linspace(-1, 1, 6).var(unbiased=False))
    assert bias.share_of_variance == pytest.approx(expected / (32 + expected), rel=0.1)


def test_without_a_bias_no_direction_is_removed() -> None:
    """The mean of 32 images holds 1/32 of their variance by chance; taken for a bias it would cost 27 directions."""
    for seed in range(5):
        bias = estimate_position_bias(features(32, 0.0, seed), 0.95)
        assert bias.directions.shape[1] == 0
        assert abs(bias.share_of_variance) < 0.01


def test_a_match_led_astray_by_the_place_is_right_without_it() -> None:
    bias = estimate_position_bias(features(64, 6.0, 0), 0.95)
    content = torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(9))
    place = 6.0 * position_part(features(64, 1.0, 1)).float()
    source, target = content + place, torch.roll(content, (2, 2), (0, 1)) + place
    true = torch.roll(torch.arange(36).view(6, 6), (-2, -2), (0, 1))[:4, :4].flatten()
    raw = best_match(source[:4, :4].flatten(0, 1), target)[0]
    clean = [without_position(x, bias.directions) for x in (source, target)]
    debiased = best_match(clean[0][:4, :4].flatten(0, 1), clean[1])[0]
    assert (raw == true).float().mean() < 0.7
    assert (debiased == true).float().mean() > 0.9


def test_noise_is_a_function_of_the_seed_and_bad_settings_are_refused() -> None:
    assert torch.equal(noise_images(2, 3, (4, 4), 1), noise_images(2, 3, (4, 4), 1))
    with pytest.raises(ValueError, match="debias_share"):
        estimate_position_bias(features(4, 1.0, 0), 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        estimate_position_bias(features(1, 1.0, 0), 0.9)
