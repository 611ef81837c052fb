from __future__ import annotations

import json

import pytest
import torch

from dinov3.models.build import backbone_from_description, backbone_lines, describe_backbone
from dinov3.models.flops import forward_flops
from dinov3.models.shapes import Product, SplitQkv, shape_line, shape_of
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import BlockShape
from tests.compress.models import images, vit

SHAPES = [
    {"heads": 2, "hidden": 24, "ranks": {"q": 5, "proj": 7, "fc1": 3}},
    {"heads": 4, "hidden": 64, "ranks": {}},
]


def test_a_cut_model_is_built_from_its_description_after_json() -> None:
    model = vit(block_shapes=SHAPES)
    description = json.loads(json.dumps(describe_backbone(model)))
    again = backbone_from_description(description)
    assert describe_backbone(again) == description
    again.load_state_dict(model.state_dict(), strict=True)
    x = images(3)
    assert torch.equal(again.eval()(x), model(x))
    assert [shape_of(block) for block in again.blocks] == [BlockShape(**shape) for shape in SHAPES]  # type: ignore[union-attr, arg-type]


def test_an_uncut_model_says_nothing_of_shapes_so_that_earlier_versions_read_it() -> None:
    assert not {"block_shapes", "int8"} & set(describe_backbone(vit())["config"])


def test_shapes_that_are_full_change_nothing() -> None:
    plain, shaped = vit(), vit(block_shapes=[{"heads": 4, "hidden": 64}] * 2)
    shaped.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(plain(images(2)), shaped(images(2)))


@pytest.mark.parametrize("mask_k_bias", [False, True])
def test_a_product_and_split_projections_compute_what_one_matrix_does(mask_k_bias: bool) -> None:
    model = vit(block_shapes=SHAPES, mask_k_bias=mask_k_bias)
    dense = vit(block_shapes=[{"heads": 2, "hidden": 24}, {"heads": 4, "hidden": 64}], mask_k_bias=mask_k_bias)
    state = dense.state_dict()
    split = model.blocks[0].attn.qkv
    assert isinstance(split, SplitQkv)
    parts = [split.q.second.weight @ split.q.first.weight, split.k.weight, split.v.weight]  # type: ignore[union-attr, operator]
    biases = [split.q.second.bias, split.k.bias, split.v.bias]  # type: ignore[union-attr]
    assert (split.k.bias is None) == mask_k_bias
    biases = [torch.zeros(16) if bias is None else bias for bias in biases]
    own = dict(model.state_dict())
    for name in ("attn.proj", "mlp.fc1"):
        product = model.blocks[0].get_submodule(name)
        assert isinstance(product, Product)
        own[f"blocks.0.{name}.weight"] = product.second.weight @ product.first.weight
        own[f"blocks.0.{name}.bias"] = product.second.bias
    own |= {"blocks.0.attn.qkv.weight": torch.cat(parts), "blocks.0.attn.qkv.bias": torch.cat(biases)}  # type: ignore[arg-type]
    dense.load_state_dict({key: own.get(key, value) for key, value in state.items()})
    torch.testing.assert_close(dense(images(2)), model(images(2)), rtol=1e-4, atol=1e-5)


def test_flops_follow_the_widths() -> None:
    whole, cut = vit(), vit(block_shapes=[{"heads": 1, "hidden": 8}] * 2)
    tokens, dim, d = 1 + 1 + 16, 32, 8
    gone = 3 * (4 * dim * d * 2 * tokens + 4 * tokens**2 * d) + 56 * 2 * dim * 2 * tokens  # 3 heads, 56 neurons
    assert forward_flops(whole, 32) - forward_flops(cut, 32) == 2 * gone


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([{"heads": 2, "hidden": 8}], "1 entries, depth is 2"),
        ([{"heads": 5, "hidden": 8}] * 2, "5 heads of 4"),
        ([{"heads": 0, "hidden": 8}] * 2, "heads 0"),
        ([{"heads": 1, "hidden": 8, "ranks": {"w1": 2}}] * 2, r"ranks of \['w1'\]"),
        ([{"heads": 1, "hidden": 8, "ranks": {"q": True}}] * 2, "q True"),
    ],
)
def test_shapes_that_cannot_be_are_refused_in_one_line(shapes: list[dict[str, object]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DinoVisionTransformer(embed_dim=32, depth=2, num_heads=4, block_shapes=shapes)


def test_widths_are_printed_block_by_block() -> None:
    lines = backbone_lines(vit(block_shapes=SHAPES), 32)
    assert lines[1:] == ["block  0: 2 heads, 24 neurons, rank q 5 proj 7 fc1 3", "block  1: 4 heads, 64 neurons"]
    assert backbone_lines(vit(), 32)[1] == "every block: 4 heads, 64 neurons"
    assert shape_line(BlockShape(heads=1, hidden=2)) == "1 heads, 2 neurons"


def test_a_cut_model_trains() -> None:
    model = vit(block_shapes=SHAPES, drop_path_rate=0.3).train()
    model(images(4)).square().mean().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "mask_token")
