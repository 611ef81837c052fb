from __future__ import annotations

import pytest

from dinov3.compress.costs import UNITS, Costs
from dinov3.compress.surgery import blocks_of
from dinov3.models.vit_config import BlockShape
from tests.compress.models import vit

TOKENS = 1 + 1 + 16


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "settings", [{}, {"ffn_layer": "swiglu"}, {"qkv_bias": False, "ffn_bias": False, "proj_bias": False}]
)
@pytest.mark.parametrize("number_format", ["none", "bf16", "weight_only"])
def test_a_models_cost_falls_by_what_the_removed_parts_cost(
    unit: str, settings: dict[str, object], number_format: str
) -> None:
    costs = Costs(unit, TOKENS, 32, number_format)
    whole = vit(**settings)
    block = blocks_of(whole)[0]
    hidden = block.mlp.w3.in_features if settings.get("ffn_layer") else block.mlp.fc2.in_features  # type: ignore[union-attr]
    shapes = [BlockShape(heads=3, hidden=16), BlockShape(heads=4, hidden=hidden)]  # type: ignore[arg-type]
    cut = vit(**settings, block_shapes=shapes)
    gone = costs.heads(block, 4) - costs.heads(block, 3) + costs.neurons(block, hidden) - costs.neurons(block, 16)  # type: ignore[arg-type]
    assert costs.model(whole) - costs.model(cut) == gone


def test_a_product_costs_what_its_two_matrices_cost() -> None:
    costs = Costs("parameters", TOKENS, 32)
    whole, cut = (
        vit(),
        vit(block_shapes=[BlockShape(heads=4, hidden=64, ranks={"fc1": 5}), BlockShape(heads=4, hidden=64)]),
    )
    gone = costs.linear(32, 64, bias=True) - costs.product(32, 64, 5, bias=True)
    assert costs.model(whole) - costs.model(cut) == gone == (33 * 64) - (32 * 5 + 5 * 64 + 64)


def test_eight_bits_are_a_quarter_and_a_scale_a_row() -> None:
    costs = Costs("bytes", TOKENS, 32, "weight_only")
    assert costs.linear(10, 6, bias=True) == 60 + 4 * 6 + 4 * 6
    assert costs.float32().linear(10, 6, bias=True) == 4 * 66
