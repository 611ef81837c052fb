from __future__ import annotations

import math

import pytest
import torch

from dinov3.models.ffn import FFN_LAYERS


@pytest.mark.parametrize(
    ("name", "dim", "ratio", "hidden"),
    [
        ("mlp", 384, 4.0, 1536),
        ("mlp", 1152, 3.777777778, 4352),
        ("swiglu", 384, 6.0, 1536),  # 2304 * 2/3
        ("swiglu", 1280, 4.0, 3416),  # 3413 up to a multiple of 8
        ("swiglu", 10, 3.0, 24),  # 20 up to a multiple of 8, not of 4
        ("swiglu32", 96, 3.0, 192),
        ("swiglu32", 60, 2.0, 96),  # 80 up to a multiple of 32, not of 16
        ("swiglu64", 48, 3.0, 128),  # 96 up to a multiple of 64, not of 32
        ("swiglu64", 4096, 3.0, 8192),
        ("swiglu128", 96, 3.0, 256),  # 192 up to a multiple of 128
    ],
)
def test_hidden_width(name: str, dim: int, ratio: float, hidden: int) -> None:
    with torch.device("meta"):
        ffn = FFN_LAYERS[name](dim, ratio, True)
    first = next(ffn.parameters())
    assert first.shape == (hidden, dim)


def test_bias_can_be_left_out() -> None:
    for name in FFN_LAYERS:
        assert not [key for key in FFN_LAYERS[name](8, 2.0, False).state_dict() if key.endswith("bias")]


def test_mlp_gelu_is_the_exact_one() -> None:
    mlp = FFN_LAYERS["mlp"](1, 1.0, False)
    for p in mlp.parameters():
        torch.nn.init.ones_(p)
    assert mlp(torch.tensor([[2.0]])).item() == pytest.approx(2.0 * 0.5 * (1 + math.erf(2 / math.sqrt(2))), rel=1e-6)


def test_swiglu_gates_with_silu_of_w1() -> None:
    ffn = FFN_LAYERS["swiglu"](1, 12.0, False)  # hidden width 8
    for name, value in (("w1", 2.0), ("w2", 3.0), ("w3", 0.125)):
        torch.nn.init.constant_(getattr(ffn, name).weight, value)
    silu = 2.0 / (1 + math.exp(-2.0))
    assert ffn(torch.tensor([[1.0]])).item() == pytest.approx(silu * 3.0, rel=1e-6)
