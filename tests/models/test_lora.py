from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dinov3.models.lora import (
    LoraSettings,
    LowRank,
    add_lora,
    merge_lora,
    merged_parameters,
    unmerge_lora,
)
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
            if "lora" in name.split(".") and name.endswith(".b"):
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


def test_three_adapters_on_row_blocks_have_more_parameters_than_one_on_the_fused_matrix() -> None:
    fused, rows = vit(), vit()
    assert add_lora(fused, ["qkv"], 3, 8.0, None) == 2 * 3 * (32 + 96)
    assert add_lora(rows, ["q", "k", "v"], 3, 8.0, None) == 2 * 3 * 3 * (32 + 32)
    names = {name for name, p in rows.named_parameters() if p.requires_grad}
    assert names == {f"blocks.{i}.attn.qkv.lora.{part}.{side}" for i in (0, 1) for part in "qkv" for side in "ab"}


def test_an_adapter_of_the_queries_changes_their_rows_alone() -> None:
    model = vit()
    before = model.blocks[0].attn.qkv.weight.detach().clone()
    add_lora(model, ["q"], 4, 8.0, torch.Generator().manual_seed(3))
    trained(model)
    now = merged_parameters(model)["blocks.0.attn.qkv.weight"]
    assert torch.equal(now[32:], before[32:])
    assert not torch.allclose(now[:32], before[:32])


def test_row_blocks_start_without_a_change() -> None:
    model = vit()
    before = model(images())
    add_lora(model, ["q", "v", "proj"], 4, 8.0, None)
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("targets", [["q", "v", "fc1"], ["qkv", "proj"]])
def test_merging_computes_the_same_and_unmerging_gives_the_weights_back_bit_for_bit(targets: list[str]) -> None:
    model = vit()
    add_lora(model, targets, 4, 8.0, torch.Generator().manual_seed(3))
    trained(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted, merged = model(images()), merged_parameters(model)
    merge_lora(model)
    assert (model(images()) - adapted).norm() / adapted.norm() < 1e-6
    assert all(torch.equal(merged_parameters(model)[name], value) for name, value in merged.items())
    with pytest.raises(ValueError, match="merged already"):
        merge_lora(model)
    unmerge_lora(model)
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert torch.equal(model(images()), adapted)
    with pytest.raises(ValueError, match="not merged"):
        unmerge_lora(model)


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank() -> None:
    assert LoraSettings(4, 8.0).scale == 2.0
    assert LoraSettings(4, 8.0, rslora=True).scale == 4.0


def test_dropout_acts_on_the_adapters_path_in_training_alone() -> None:
    model = vit()
    add_lora(model, ["proj"], 4, 8.0, torch.Generator().manual_seed(3), dropout=0.5)
    trained(model)
    assert torch.equal(model(images()), model(images()))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(images()), model(images()))
    for module in model.modules():
        if isinstance(module, LowRank):
            nn.init.zeros_(module.b)
    assert torch.equal(model(images()), model(images()))


def test_fused_and_row_adapters_exclude_each_other_and_products_take_none() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        add_lora(vit(), ["qkv", "q"], 2, 4.0, None)
    cut = vit(block_shapes=[{"heads": 2, "hidden": 128, "ranks": {"fc1": 3}}, {"heads": 2, "hidden": 128}])
    with pytest.raises(ValueError, match="take no adapter, here fc1: leave them out"):
        add_lora(cut, ["fc1"], 2, 4.0, None)
    assert add_lora(cut, ["q", "fc2"], 2, 4.0, None) == 2 * 2 * (64 + 160)
