from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.models import attention as module_of_attention
from dinov3.models.attention import LONG, KeyBiasMaskedLinear, SelfAttention
from dinov3.models.initialization import init_layers
from dinov3.models.packing import pack, unpack
from dinov3.models.rotary.embedding import RopePositionEmbedding, Rotation

DIM, HEADS, WIDTH, PREFIX = 16, 2, 8, 1
GRIDS = [(2, 2), (1, 3)]
SIZES = ((2, 5), (3, 4))


def rotations() -> list[Rotation]:
    rope = RopePositionEmbedding(WIDTH, dtype="fp32")
    rope.init_weights()
    return [Rotation.of(rope(*grid), PREFIX) for grid in GRIDS]


def attention(**settings: bool) -> SelfAttention:
    module = SelfAttention(DIM, HEADS, **{"qkv_bias": True, "proj_bias": True, "mask_k_bias": False} | settings)
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=generator)
    if isinstance(module.qkv, KeyBiasMaskedLinear):
        module.qkv.init_mask()
    return module


def entries(seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, t, DIM, generator=generator) for n, t in SIZES]


def by_definition(module: SelfAttention, crop: Tensor, rotation: Rotation) -> Tensor:
    """Attention of one crop [T, D], head by head and query by query."""
    q, k, v = module.qkv(crop).chunk(3, dim=-1)
    out = torch.zeros_like(crop)
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        keys, queries = (rotation.apply(t[None, :, part])[0] for t in (k, q))
        for i in range(len(crop)):
            scores = torch.stack([queries[i] @ key / math.sqrt(WIDTH) for key in keys])
            out[i, part] = (scores.softmax(0)[:, None] * v[:, part]).sum(0)
    return module.proj(out)


def test_packed_attention_is_softmax_attention_inside_each_crop() -> None:
    module = attention()
    outputs = unpack(module(pack(entries()), SIZES, rotations()), SIZES)
    for entry, out, rotation in zip(entries(), outputs, rotations(), strict=True):
        for crop, result in zip(entry, out, strict=True):
            assert torch.allclose(result, by_definition(module, crop, rotation), atol=1e-5)


def test_a_crop_sees_no_other_crop() -> None:
    module, first = attention(), entries()
    changed = [first[0], first[1].clone()]
    changed[1][0] += 1
    a, b = (unpack(module(pack(e), SIZES, rotations()), SIZES) for e in (first, changed))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1][1:], b[1][1:])
    assert not torch.allclose(a[1][0], b[1][0])


def test_a_masked_key_bias_has_no_effect_and_no_gradient() -> None:
    module = attention(mask_k_bias=True)
    before = module(pack(entries()), SIZES, rotations())
    before.square().sum().backward()
    assert module.qkv.bias.grad is not None
    query, key, value = module.qkv.bias.grad.chunk(3)
    assert not key.any()
    assert query.any()
    assert value.any()
    with torch.no_grad():
        module.qkv.bias.chunk(3)[1].add_(7.0)
    assert torch.equal(before, module(pack(entries()), SIZES, rotations()))


def test_the_mask_exists_only_with_a_bias() -> None:
    assert "qkv.bias_mask" in attention(mask_k_bias=True).state_dict()
    assert "qkv.bias_mask" not in attention(mask_k_bias=True, qkv_bias=False).state_dict()
    assert "qkv.bias_mask" not in attention().state_dict()


def test_initialised_bias_is_zero() -> None:
    module = attention(mask_k_bias=True)
    init_layers(module, torch.Generator().manual_seed(0))
    assert not module.qkv.bias.any()
    assert not module.proj.bias.any()


@pytest.mark.parametrize("tokens", [1, 5, 37, LONG + 1])
def test_attention_that_a_cpu_trains_in_bf16_has_the_results_and_gradients_of_fp32(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(4, 2, 3, tokens, 16, generator=generator).to(torch.bfloat16)  # [3, N, heads, T, D_head]
    upstream = torch.randn(2, 3, tokens, 16, generator=generator).to(torch.bfloat16)

    def found(dtype: torch.dtype, *, written_out: bool) -> list[Tensor]:
        qkv = [part.detach().to(dtype).requires_grad_() for part in start[:3]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            seen = module_of_attention.attention(*qkv, written_out=written_out)
        assert seen.dtype == dtype
        seen.backward(upstream.to(dtype))
        return [seen.detach().float(), *(part.grad.float() for part in qkv if part.grad is not None)]

    exact, kernel = found(torch.float32, written_out=True), found(torch.bfloat16, written_out=False)
    monkeypatch.setattr(F, "scaled_dot_product_attention", only_in_fp32(F.scaled_dot_product_attention))
    ours = found(torch.bfloat16, written_out=True)
    assert len(ours) == 4
    for a, b, expected in zip(ours, kernel, exact, strict=True):
        rounding = 2.0**-8 * expected.norm()  # of bf16
        assert (a - expected).norm() <= max(2 * rounding, 2 * (b - expected).norm())


def only_in_fp32(kernel: Any) -> Any:
    """torch's function, which refuses to train in bf16."""

    def checked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert q.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return kernel(q, k, v)

    return checked
