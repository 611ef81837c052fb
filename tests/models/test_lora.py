from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dinov3.models.lora import add_lora, merged_parameters
from dinov3.models.vit import DinoVisionTransformer

TARGETS = ["qkv", "proj", "fc1", "fc2"]


def vit(**settings: object) -> DinoVisionTransformer:
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "layerscale_init": 1.0, **settings}
    model = DinoVisionTransformer(**small)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained(model: nn.Module) -> nn.Module:
    """As after some training: B is not 0 any more."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora.b"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_nothing_has_changed_at_the_start() -> None:
    model = vit()
    before = model(images())
    add_lora(model, TARGETS, 4, 8.0, None)
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("mask_k_bias", [False, True])
def test_the_merged_backbone_is_the_adapted_one(mask_k_bias: bool) -> None:
    model = vit(mask_k_bias=mask_k_bias)
    plain = copy.deepcopy(model)
    add_lora(model, TARGETS, 4, 8.0, torch.Generator().manual_seed(3))
    trained(model)
    merged = merged_parameters(model)
    assert merged.keys() == dict(plain.named_parameters()).keys()
    before = plain(images())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(merged[name])
    assert (model(images()) - plain(images())).norm() / before.norm() < 1e-6
    assert not torch.allclose(plain(images()), before, atol=1e-2)


def test_only_the_adapters_train_and_their_number_is_rank_times_both_widths() -> None:
    model = vit()
    trained_parameters = add_lora(model, ["qkv", "fc1"], 3, 8.0, None)
    assert trained_parameters == 2 * 3 * ((32 + 96) + (32 + 128))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {
        f"blocks.{i}.{layer}.lora.{side}" for i in (0, 1) for layer in ("attn.qkv", "mlp.fc1") for side in "ab"
    }


def test_alpha_over_rank_scales_the_change() -> None:
    outputs = []
    for alpha in (4.0, 8.0):
        layer = nn.ModuleDict({"fc": nn.Linear(5, 7)})
        nn.init.zeros_(layer["fc"].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer["fc"].bias)  # type: ignore[arg-type]
        add_lora(layer, ["fc"], 2, alpha, torch.Generator().manual_seed(0))
        outputs.append(trained(layer)["fc"](torch.ones(1, 5)))  # type: ignore[index]
    torch.testing.assert_close(outputs[1], 2 * outputs[0])


def test_a_starts_as_a_linear_layer_of_torch_does() -> None:
    """Uniform within 1 / sqrt(inputs)."""
    layer = nn.ModuleDict({"fc": nn.Linear(64, 8)})
    add_lora(layer, ["fc"], 32, 4.0, torch.Generator().manual_seed(0))
    first = dict(layer.named_parameters())["fc.lora.a"].abs()
    assert first.max() <= 1 / 8
    assert first.max() > 0.99 / 8
    assert not dict(layer.named_parameters())["fc.lora.b"].any()


def test_wrong_targets_and_second_adapters_are_refused() -> None:
    model = vit()
    with pytest.raises(
        ValueError, match=r"lora\.targets \['query'\]: .* there are \['fc1', 'fc2', 'proj', 'qkv', 'q \(rows"
    ):
        add_lora(model, ["query"], 2, 4.0, None)
    add_lora(model, ["qkv"], 2, 4.0, None)
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(model, ["qkv"], 2, 4.0, None)
