"""Blocks that are narrower than their architecture says: fewer heads and neurons, matrices as products of two.

What ``dinov3 compress`` leaves. ``VitConfig.block_shapes`` describes it, so that such a model is built, stored and loaded
like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.models.attention import KeyBiasMaskedLinear, SelfAttention
from dinov3.models.block import Block
from dinov3.models.ffn import Mlp
from dinov3.models.int8 import make_int8
from dinov3.models.vit_config import GATED_FFN, PLAIN_FFN, QKV, BlockShape, VitConfig


class Product(nn.Module):
    """A linear layer whose matrix is ``second @ first``: in -> rank without bias, rank -> out with it."""

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # [..., out]


class SplitQkv(nn.Module):
    """Queries, keys and values from three layers, side by side as the fused one gives them."""

    def __init__(self, q: nn.Module, k: nn.Module, v: nn.Module) -> None:
        super().__init__()
        self.q, self.k, self.v = q, k, v

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)  # [..., 3 * heads * D_head]


def ffn_names(ffn: nn.Module) -> tuple[str, ...]:
    """The linear layers of a feed-forward network, the one back to D last."""
    return PLAIN_FFN if isinstance(ffn, Mlp) else GATED_FFN


def shape_of(block: nn.Module) -> BlockShape:
    """The shape of a block as it is."""
    attn: Any = block.attn
    mlp: Any = block.mlp
    layers = {name: getattr(attn.qkv, name) for name in QKV} if isinstance(attn.qkv, SplitQkv) else {}
    layers |= {"proj": attn.proj, **{name: getattr(mlp, name) for name in ffn_names(mlp)}}
    ranks = {name: layer.rank for name, layer in layers.items() if isinstance(layer, Product)}
    split = isinstance(attn.qkv, SplitQkv) and not ranks.keys() & set(QKV)
    assert not split, "queries, keys and values lie apart only where one of them is a product"
    hidden: int = getattr(mlp, ffn_names(mlp)[-1]).in_features
    return BlockShape(heads=attn.num_heads, hidden=hidden, ranks=ranks)


def reshape_blocks(blocks: Iterable[nn.Module], cfg: VitConfig) -> None:
    """Give blocks that were built to ``cfg``'s dimensions the layers of ``cfg.block_shapes``, then of ``cfg.int8``.

    Weights are fresh and empty: call it where the blocks are built, on the meta device.
    """
    for block, shape in zip(blocks, cfg.block_shapes or (), strict=cfg.block_shapes is not None):
        assert isinstance(block, Block)
        _reshape_attention(block.attn, shape, cfg)
        _reshape_ffn(block.mlp, shape, cfg)
    if cfg.int8 is not None:
        for block in blocks:
            make_int8(block, cfg.int8)


def _reshape_attention(attn: SelfAttention, shape: BlockShape, cfg: VitConfig) -> None:
    dim, inner = cfg.embed_dim, shape.heads * attn.head_dim
    masked = cfg.qkv_bias and cfg.mask_k_bias
    attn.num_heads = shape.heads
    if set(QKV) & set(shape.ranks):
        bias = {"q": cfg.qkv_bias, "k": cfg.qkv_bias and not masked, "v": cfg.qkv_bias}
        attn.qkv = SplitQkv(*(_linear(dim, inner, shape.ranks.get(name), bias[name]) for name in QKV))  # type: ignore[assignment]
    else:
        attn.qkv = KeyBiasMaskedLinear(dim, 3 * inner) if masked else nn.Linear(dim, 3 * inner, bias=cfg.qkv_bias)
    attn.proj = _linear(inner, dim, shape.ranks.get("proj"), cfg.proj_bias)  # type: ignore[assignment]


def _reshape_ffn(ffn: nn.Module, shape: BlockShape, cfg: VitConfig) -> None:
    *inward, outward = ffn_names(ffn)
    for name in inward:
        setattr(ffn, name, _linear(cfg.embed_dim, shape.hidden, shape.ranks.get(name), cfg.ffn_bias))
    setattr(ffn, outward, _linear(shape.hidden, cfg.embed_dim, shape.ranks.get(outward), cfg.ffn_bias))


def _linear(in_features: int, out_features: int, rank: int | None, bias: bool) -> nn.Module:
    if rank is None:
        return nn.Linear(in_features, out_features, bias=bias)
    return Product(in_features, out_features, rank, bias=bias)


def shape_line(shape: BlockShape) -> str:
    """One block for people: ``4 heads, 1024 neurons, rank q 96 k 96``."""
    ranks = " ".join(f"{name} {rank}" for name, rank in shape.ranks.items())
    return f"{shape.heads} heads, {shape.hidden} neurons" + (f", rank {ranks}" if ranks else "")
