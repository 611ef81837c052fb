"""What heads, neurons and ranks cost, in parameters, operations or bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.flops import forward_flops
from dinov3.models.shapes import Product, ffn_names
from dinov3.models.vit import DinoVisionTransformer

UNITS = ("parameters", "flops", "bytes")


@dataclass(frozen=True)
class Costs:
    """Of one ``unit``; for flops of one image of ``tokens`` tokens, ``size`` px; bytes as stored in ``number_format``."""

    unit: str
    tokens: int
    size: int
    number_format: str = "none"  # none (float32), bf16, weight_only, dynamic

    def float32(self) -> Costs:
        """The same of numbers of 32 bits: what a budget is a share of."""
        return replace(self, number_format="none")

    def linear(self, in_features: int, out_features: int, *, bias: bool) -> int:
        """One matrix and its bias."""
        weights, biases = in_features * out_features, out_features if bias else 0
        if self.unit == "parameters":
            return weights + biases
        if self.unit == "flops":
            return 2 * self.tokens * weights
        if self.number_format in ("weight_only", "dynamic"):
            return weights + 4 * out_features + 4 * biases  # a scale a row
        return (2 if self.number_format == "bf16" else 4) * (weights + biases)

    def attention(self, heads: int, width: int) -> int:
        """Products of queries, keys and values."""
        return 4 * self.tokens**2 * heads * width if self.unit == "flops" else 0

    def heads(self, block: Block, count: int) -> int:
        """Attention of a block with ``count`` heads."""
        attn, dim = block.attn, block.attn.qkv.in_features
        inner = count * attn.head_dim
        qkv = self.linear(dim, 3 * inner, bias=attn.qkv.bias is not None)
        return qkv + self.linear(inner, dim, bias=attn.proj.bias is not None) + self.attention(count, attn.head_dim)

    def neurons(self, block: Block, count: int) -> int:
        """The feed-forward network of a block with ``count`` neurons."""
        layers: list[Any] = [getattr(block.mlp, name) for name in ffn_names(block.mlp)]
        *inward, outward = layers
        into = sum(self.linear(module.in_features, count, bias=has_bias(module)) for module in inward)
        return into + self.linear(count, outward.out_features, bias=has_bias(outward))

    def product(self, in_features: int, out_features: int, rank: int, *, bias: bool) -> int:
        """A matrix as two."""
        return self.linear(in_features, rank, bias=False) + self.linear(rank, out_features, bias=bias)

    def model(self, backbone: Backbone) -> int:
        """All of a float model."""
        if self.unit == "parameters":
            return sum(p.numel() for p in backbone.parameters())
        if self.unit == "flops":
            return forward_flops(backbone, self.size, backbone.in_chans)
        linear = [m for b in _blocks(backbone) for m in b.modules() if isinstance(m, torch.nn.Linear)]
        inside = sum(m.weight.numel() + (m.bias.numel() if m.bias is not None else 0) for m in linear)
        others = sum(p.numel() for p in backbone.parameters()) - inside
        packed = sum(self.linear(m.in_features, m.out_features, bias=m.bias is not None) for m in linear)
        return packed + (2 if self.number_format == "bf16" else 4) * others


def _blocks(backbone: Backbone) -> list[torch.nn.Module]:
    assert isinstance(backbone, DinoVisionTransformer)
    return list(backbone.blocks)


def has_bias(module: torch.nn.Module) -> bool:
    """Of a linear layer or a product of two."""
    last = module.second if isinstance(module, Product) else module
    assert isinstance(last, torch.nn.Linear)
    return last.bias is not None
