from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinov3.models.diffusion.conditioning import context_bias, cross_attention, modulate, plain_cross_attention

TEXT, FEATURES = 5, 7


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, generator=generator, dtype=dtype) for n in (4, *[TEXT + FEATURES] * 2))
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    return q, k, v, mask


@pytest.mark.parametrize("feature_bias", [0.0, -math.log(7), 1.5])
def test_the_fused_attention_agrees_with_the_written_out_one_forward_and_backward(feature_bias: float) -> None:
    *qkv, mask = tensors(torch.float64)
    results = []
    for attention in (cross_attention, plain_cross_attention):
        leaves = [x.clone().requires_grad_() for x in qkv]
        value = torch.tensor(feature_bias, dtype=torch.float64, requires_grad=True)
        out = attention(*leaves, context_bias(mask, FEATURES, value))
        out.square().sum().backward()
        results.append([out.detach(), value.grad, *(leaf.grad for leaf in leaves)])
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain)


def test_what_stands_in_padded_text_changes_nothing() -> None:
    q, k, v, mask = tensors()
    bias = context_bias(mask, FEATURES)
    before = cross_attention(q, k, v, bias)
    padded = ~mask[:, None, :, None]
    k[:, :, :TEXT] = torch.where(padded, 1e3, k[:, :, :TEXT])
    v[:, :, :TEXT] = torch.where(padded, -1e3, v[:, :, :TEXT])
    assert torch.equal(cross_attention(q, k, v, bias), before)
    assert before.isfinite().all()  # a row of padding alone still has its features


def test_a_bias_of_minus_infinity_is_attention_on_text_alone() -> None:
    q, k, v, mask = tensors()
    found = cross_attention(q, k, v, context_bias(mask, FEATURES, -math.inf))[:2]
    text = context_bias(mask, 0)[:2]
    torch.testing.assert_close(
        found, cross_attention(q[:2], k[:2, :, :TEXT], v[:2, :, :TEXT], text), rtol=1e-6, atol=1e-6
    )


def test_modulation_by_zero_is_the_norm() -> None:
    x = torch.randn(2, 3, 8)
    zero = torch.zeros(2, 8)
    torch.testing.assert_close(modulate(x, zero, zero), torch.nn.functional.layer_norm(x, (8,), eps=1e-6))
    torch.testing.assert_close(modulate(x, zero + 2, zero - 1), torch.full_like(x, 2))
