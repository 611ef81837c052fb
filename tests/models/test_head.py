from __future__ import annotations

import pytest
import torch

from dinov3.models.head import DINOHead


def head(nlayers: int = 3) -> DINOHead:
    module = DINOHead(8, 20, nlayers=nlayers, hidden_dim=16, bottleneck_dim=4)
    module.init_weights(torch.Generator().manual_seed(0))
    return module


def features() -> torch.Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1)) * 10


def test_the_bottleneck_has_unit_length() -> None:
    out = head()(features(), no_last_layer=True)
    assert out.shape == (5, 4)
    assert torch.allclose(out.norm(dim=-1), torch.ones(5), atol=1e-5)


def test_a_bottleneck_that_is_almost_nothing_has_unit_length_too() -> None:
    """DINOv3's epsilon is 1e-12 in fp32."""
    module = head(1)
    out = module(features() * 1e-7, no_last_layer=True)
    assert torch.allclose(out.norm(dim=-1), torch.ones(5), atol=1e-5)


def test_the_two_parts_make_the_whole() -> None:
    module, x = head(), features()
    bottleneck = module(x, no_last_layer=True)
    assert torch.equal(module(bottleneck, only_last_layer=True), module(x))


def test_logits_ignore_the_scale_of_a_head_without_biases() -> None:
    module = DINOHead(8, 20, nlayers=1, bottleneck_dim=4, mlp_bias=False)
    module.init_weights(torch.Generator().manual_seed(0))
    x = features()
    assert torch.allclose(module(x), module(3 * x), atol=1e-6)


@pytest.mark.parametrize(
    ("nlayers", "keys"),
    [
        (1, {"mlp.weight", "mlp.bias", "last_layer.weight"}),
        (2, {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "last_layer.weight"}),
    ],
)
def test_state_dict_names(nlayers: int, keys: set[str]) -> None:
    assert set(head(nlayers).state_dict()) == keys


def test_fp16_normalises_a_zero_row_to_zero() -> None:
    module = head(1).half()
    with torch.no_grad():
        module.mlp.bias.zero_()  # type: ignore[operator]
    assert not module(torch.zeros(2, 8, dtype=torch.float16), no_last_layer=True).isnan().any()


def test_weights_are_nan_until_initialised_from_the_generator() -> None:
    state = torch.get_rng_state()
    assert all(p.isnan().all() for p in DINOHead(8, 20).parameters())
    a, b = head(), head()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="head_nlayers 0"):
        DINOHead(8, 20, nlayers=0)


def test_wider_prototypes_are_the_same_draws_scaled() -> None:
    weights = []
    for std in (0.02, 0.6):
        head = DINOHead(8, 40, hidden_dim=16, bottleneck_dim=12, last_layer_std=std)
        head.init_weights(torch.Generator().manual_seed(0))
        weights.append(head.last_layer.weight.detach())
    torch.testing.assert_close(weights[1], weights[0] * 30)
