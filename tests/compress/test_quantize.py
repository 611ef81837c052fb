from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

from dinov3.compress.quantize import quantized
from dinov3.models.build import backbone_lines
from dinov3.models.int8 import Int8Linear
from dinov3.weights.parity import tokens_of
from tests.compress.models import images, vit


@pytest.mark.parametrize("kind", ["weight_only", "dynamic"])
@pytest.mark.parametrize("settings", [{}, {"mask_k_bias": False}, {"ffn_layer": "swiglu"}, {"qkv_bias": False}])
def test_all_linear_layers_of_blocks_are_in_eight_bits_and_the_tokens_stay_near(
    kind: str, settings: dict[str, Any]
) -> None:
    model = vit(**settings)
    before = copy.deepcopy(model.state_dict())
    small: Any = quantized(model, kind)
    for block in small.blocks:
        assert not [m for m in block.modules() if isinstance(m, torch.nn.Linear)]
        assert [m for m in block.modules() if isinstance(m, Int8Linear) and m.kind == kind]
    assert isinstance(small.patch_embed.proj, torch.nn.Conv2d)
    cosine = torch.cosine_similarity(tokens_of(small, images(4)), tokens_of(model, images(4)), dim=-1)
    assert float(cosine.min()) > 0.99
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_masked_key_bias_never_acts_even_when_it_is_not_a_number() -> None:
    model = vit()
    wanted = tokens_of(quantized(model, "weight_only"), images(2))
    with torch.no_grad():
        model.blocks[0].attn.qkv.bias.chunk(3)[1].fill_(torch.nan)  # type: ignore[union-attr, operator]
    assert torch.equal(tokens_of(quantized(model, "weight_only"), images(2)), wanted)


def test_whole_models_agree_with_torchao() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = vit(mask_k_bias=False)
    for kind, config in (
        ("weight_only", quantization.Int8WeightOnlyConfig),
        ("dynamic", quantization.Int8DynamicActivationInt8WeightConfig),
    ):
        theirs = copy.deepcopy(model)
        quantization.quantize_(theirs.blocks, config(set_inductor_config=False))
        ours, other = tokens_of(quantized(model, kind), images(3)), tokens_of(theirs, images(3))
        # dynamic: a rounding that flips moves a token by thousandths
        assert float((ours - other).norm() / other.norm()) < (1e-5 if kind == "weight_only" else 2e-2)


def test_the_line_of_a_model_in_8_bits_counts_every_weight_once() -> None:
    whole = vit()
    (head, *_) = backbone_lines(quantized(whole, "weight_only"))
    floats, integers = (
        int(found.replace(",", "")) for found in re.findall(r"([\d,]+) (?:parameters|weights in 8 bits)", head)
    )
    assert floats + integers == sum(p.numel() for p in whole.parameters())
