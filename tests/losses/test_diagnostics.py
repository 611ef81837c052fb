from __future__ import annotations

import math

import pytest
import torch

from dinov3.losses.diagnostics import feature_spread, prototype_usage, rankme, target_entropy
from dinov3.losses.sinkhorn import sinkhorn_targets, softmax_targets


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_spread_is_one_for_gaussian_directions_and_zero_for_one_direction() -> None:
    assert feature_spread(noise(2000, 64)) == pytest.approx(1, abs=0.02)
    assert feature_spread(noise(1, 64).expand(100, -1) * torch.rand(100, 1)) == pytest.approx(0, abs=1e-5)
    assert feature_spread(noise(2000, 64) + 3) < 0.4


def test_rankme_counts_equal_directions_and_ignores_scale() -> None:
    assert rankme(torch.eye(16)[:10]) == pytest.approx(10, rel=1e-3)
    assert rankme(torch.ones(50, 16)) == pytest.approx(1, rel=1e-3)
    features = noise(200, 16) @ torch.diag(torch.tensor([1.0] * 4 + [1e-6] * 12))
    assert rankme(features) == pytest.approx(4, rel=0.02)
    assert rankme(1000 * features) == pytest.approx(float(rankme(features)), rel=1e-4)


def test_entropy_is_its_definition_and_ln_k_when_the_teacher_says_nothing() -> None:
    targets = sinkhorn_targets(noise(2, 6, 32), 0.1)
    dense = targets.dense().flatten(0, 1).double()
    assert target_entropy(targets) == pytest.approx(float(-(dense * dense.log()).sum(1).mean()), rel=1e-5)
    assert target_entropy(softmax_targets(torch.zeros(2, 6, 32), 0.1)) == pytest.approx(math.log(32), rel=1e-6)
    assert target_entropy(softmax_targets(1e4 * noise(2, 6, 32), 0.1)) == pytest.approx(0, abs=1e-6)


def test_usage_counts_distinct_winners() -> None:
    logits = torch.zeros(1, 8, 32)
    logits[0, torch.arange(8), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])] = 5.0
    assert prototype_usage(softmax_targets(logits, 0.1)) == 0.5
    assert prototype_usage(softmax_targets(noise(1, 1, 32).expand(1, 8, 32), 0.1)) == pytest.approx(1 / 8)
    assert prototype_usage(softmax_targets(noise(2, 500, 4), 0.1)) == 1
