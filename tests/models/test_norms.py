from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dinov3.models.initialization import init_layers
from dinov3.models.norms import NORM_LAYERS, RMSNorm


def ready(name: str, dim: int) -> nn.Module:
    norm = NORM_LAYERS[name](dim)
    init_layers(norm, None)
    if isinstance(norm, RMSNorm):
        norm.init_weights()
    return norm


@pytest.mark.parametrize(("name", "eps"), [("layernorm", 1e-6), ("layernormbf16", 1e-5)])
def test_layer_norms_differ_in_epsilon(name: str, eps: float) -> None:
    a = 1e-3  # variance a^2 = 1e-6: the epsilon decides
    out = ready(name, 2)(torch.tensor([[a, -a]]))
    assert out[0, 0].item() == pytest.approx(a / math.sqrt(a**2 + eps), rel=1e-5)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    norm = ready("rmsnorm", 2)
    out = norm(torch.tensor([[3.0, 4.0]]))
    assert out[0, 0].item() == pytest.approx(3.0 / math.sqrt(12.5 + 1e-5), rel=1e-6)
    small = norm(torch.tensor([[1e-3, 1e-3]]))
    assert small[0, 0].item() == pytest.approx(1e-3 / math.sqrt(1e-6 + 1e-5), rel=1e-5)


def test_rms_norm_squares_in_fp32() -> None:
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)  # 1000^2 overflows fp16
    assert torch.allclose(ready("rmsnorm", 8).half()(x), torch.ones(1, 8, dtype=torch.float16))
