from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from dinov3.compress.errors import CompressError
from dinov3.compress.quantize import quantized
from dinov3.compress.surgery import (
    blocks_of,
    factorise,
    keep_heads,
    keep_neurons,
    matrix_names,
    rebuilt,
    weight_of,
)
from dinov3.models.convnext import ConvNeXt
from dinov3.models.shapes import ffn_names
from tests.compress.models import images, vit

FFNS = ["mlp", "swiglu"]


@pytest.mark.parametrize("ffn_layer", FFNS)
@pytest.mark.parametrize("mask_k_bias", [False, True])
def test_removed_heads_and_neurons_are_those_whose_columns_are_zero(ffn_layer: str, mask_k_bias: bool) -> None:
    model = vit(ffn_layer=ffn_layer, mask_k_bias=mask_k_bias)
    zeroed, cut = copy.deepcopy(model), copy.deepcopy(model)
    heads, neurons = torch.tensor([0, 2]), torch.arange(0, 24, 2)
    for ours, theirs in zip(blocks_of(cut), blocks_of(zeroed), strict=True):
        keep_heads(ours, heads)
        keep_neurons(ours, neurons)
        down: Any = getattr(theirs.mlp, ffn_names(theirs.mlp)[-1])
        with torch.no_grad():
            theirs.attn.proj.weight.view(32, 4, 8)[:, [1, 3]] = 0
            gone = [i for i in range(down.in_features) if i not in neurons]
            down.weight[:, gone] = 0
    again = rebuilt(cut)
    torch.testing.assert_close(again(images(3)), zeroed(images(3)), rtol=1e-4, atol=1e-5)
    assert torch.equal(again(images(3)), cut(images(3)))


@pytest.mark.parametrize("name", ["q", "k", "v", "proj", "fc1", "fc2"])
@pytest.mark.parametrize("settings", [{}, {"mask_k_bias": False}, {"qkv_bias": False}])
def test_a_product_of_full_rank_changes_nothing(name: str, settings: dict[str, bool]) -> None:
    model = vit(**settings)
    cut = copy.deepcopy(model)
    for block in blocks_of(cut):
        weight = weight_of(block, name)
        assert weight is not None
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        factorise(block, name, v, u * s)
        assert weight_of(block, name) is None
    torch.testing.assert_close(rebuilt(cut)(images(3)), model(images(3)), rtol=1e-3, atol=1e-4)


def test_heads_and_neurons_of_factorised_layers_are_refused() -> None:
    model = vit()
    block = blocks_of(model)[0]
    for name in ("v", "fc2"):
        weight = weight_of(block, name)
        assert weight is not None
        factorise(block, name, torch.eye(weight.shape[1]), weight)
    with pytest.raises(CompressError, match="put svd and whitened last"):
        keep_heads(block, torch.tensor([0]))
    with pytest.raises(CompressError, match="put svd and whitened last"):
        keep_neurons(block, torch.tensor([0]))


def test_a_key_bias_under_an_open_mask_is_not_dropped_in_silence() -> None:
    model = vit()
    block = blocks_of(model)[0]
    block.attn.qkv.bias_mask.fill_(1.0)  # type: ignore[operator, union-attr]
    with pytest.raises(CompressError, match="the keys have a bias"):
        factorise(block, "q", torch.eye(32), torch.eye(32))


def test_what_has_no_heads_or_no_floats_is_refused() -> None:
    with pytest.raises(CompressError, match="ConvNeXt: only vision transformers"):
        blocks_of(ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], device="meta"))
    with pytest.raises(CompressError, match="in 8 bits already"):
        blocks_of(quantized(vit(), "dynamic"))


def test_an_uncut_model_is_rebuilt_without_shapes() -> None:
    model = vit()
    again: Any = rebuilt(copy.deepcopy(model))
    assert again.config == model.config
    assert matrix_names(blocks_of(again)[0]) == ("q", "k", "v", "proj", "fc1", "fc2")
