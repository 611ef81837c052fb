from __future__ import annotations

import torch
from torch import nn

from dinov3.models.initialization import allocate, init_layers


def meta_net() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Conv2d(3, 8, 2, bias=False))


def test_allocated_weights_are_nan_until_initialised() -> None:
    net = meta_net()
    allocate(net, "cpu")
    assert all(p.isnan().all() for p in net.parameters())
    init_layers(net, torch.Generator().manual_seed(0))
    assert all(p.isfinite().all() for p in net.parameters())


def test_allocate_leaves_a_meta_model_alone() -> None:
    net = meta_net()
    allocate(net, "meta")
    with torch.device("meta"):
        allocate(net, None)
    assert all(p.is_meta for p in net.parameters())


def test_init_depends_on_the_generator_only() -> None:
    nets = [meta_net(), meta_net()]
    state = torch.get_rng_state()
    for net in nets:
        allocate(net, "cpu")
        init_layers(net, torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_linear_weights_have_std_of_two_hundredths() -> None:
    net = meta_net()
    allocate(net, "cpu")
    init_layers(net, torch.Generator().manual_seed(0))
    weight, bias = net[0].parameters()
    assert abs(weight.std().item() - 0.02) < 0.001
    assert not bias.any()
