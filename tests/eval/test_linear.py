from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.eval.linear import fit_linear


def clusters(n: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Five classes around fixed centres in 16 dimensions, each dimension of another size."""
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 5
    scale = torch.logspace(-2, 3, 16)
    return (centres[labels] + spread * torch.randn(n, 16, generator=generator)) * scale, labels


def test_separable_features_are_separated() -> None:
    probe = fit_linear(*clusters(500, 0.1, 1), n_classes=5)
    features, labels = clusters(500, 0.1, 2)
    assert (probe(features).argmax(1) == labels).float().mean() >= 0.99


def test_labels_without_meaning_stay_at_chance() -> None:
    features, labels = clusters(1000, 0.1, 1)
    shuffled = labels[torch.randperm(1000, generator=torch.Generator().manual_seed(3))]
    probe = fit_linear(features, shuffled, n_classes=5)
    assert max(probe.validation.values()) < 0.4


def test_one_rate_of_the_grid_is_what_it_is_alone_and_equals_torchs_sgd() -> None:
    features, labels = clusters(50, 1.0, 1)
    grid = fit_linear(features, labels, n_classes=5, learning_rates=(1e-5, 0.1), epochs=3, batch_size=16)
    assert grid.learning_rate == 0.1
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(0))[torch.arange(50) % 10 != 0]
    x, y = (features[rows] - grid.mean) / grid.std, labels[rows]
    layer = torch.nn.Linear(16, 5)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for batch in torch.randperm(45, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(grid.weight, layer.weight.detach().T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.bias, layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_too_few_images_are_named() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        fit_linear(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), n_classes=2)
