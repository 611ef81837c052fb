from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dinov3.models.int8 import Int8Linear, make_int8, row_scales, to_int8


def layer(seed: int = 0, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(48, 20, bias=bias)


def as_int8(linear: nn.Linear, kind: str) -> Int8Linear:
    holder = nn.ModuleDict({"fc": copy.deepcopy(linear)})
    make_int8(holder, kind)
    made: Any = holder["fc"]
    assert isinstance(made, Int8Linear)
    return made


@pytest.mark.parametrize("bias", [False, True])
def test_weight_only_is_the_product_with_the_rounded_weights(bias: bool) -> None:
    linear, x = layer(bias=bias), torch.randn(3, 7, 48)
    made = as_int8(linear, "weight_only")
    rounded = copy.deepcopy(linear)
    rounded.weight.data = made.weight.float() * made.scale[:, None]
    torch.testing.assert_close(made(x), rounded(x), rtol=1e-5, atol=1e-6)
    off = (rounded.weight - linear.weight).detach().abs().max()
    assert float(off) <= float(made.scale.max()) * 1.01  # 127.5 becomes 127


def test_dynamic_multiplies_integers_token_by_token() -> None:
    linear, x = layer(), torch.randn(2, 5, 48)
    made = as_int8(linear, "dynamic")
    scales = row_scales(x)
    wanted = (to_int8(x, scales).double() @ made.weight.double().T) * scales[..., None] * made.scale + linear.bias
    torch.testing.assert_close(made(x).double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_token_of_zeros_and_a_row_of_zeros_give_the_bias() -> None:
    linear = layer()
    linear.weight.data[3] = 0
    for kind in ("weight_only", "dynamic"):
        y = as_int8(linear, kind)(torch.zeros(2, 48))
        assert torch.equal(y, linear.bias.expand(2, -1))
        assert float(as_int8(linear, kind)(torch.randn(4, 48))[0, 3]) == float(linear.bias[3])


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="int8 'static'"):
        make_int8(nn.ModuleDict({"fc": layer()}), "static")


@pytest.mark.parametrize("kind", ["weight_only", "dynamic"])
def test_torchao_agrees(kind: str) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    configs = {
        "weight_only": quantization.Int8WeightOnlyConfig,
        "dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
    }
    theirs = nn.Sequential(layer(1))
    ours = as_int8(theirs[0], kind)  # type: ignore[arg-type]
    quantization.quantize_(theirs, configs[kind](set_inductor_config=False))
    x = torch.randn(9, 48, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
