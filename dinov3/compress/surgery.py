"""Cuts in one block: fewer heads, fewer neurons, a matrix as a product of two. In place, on float weights.

Everything here keeps what the block computes for what is kept; which and how many is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.compress.errors import CompressError
from dinov3.models.attention import KeyBiasMaskedLinear
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.build import backbone_from_description, describe_backbone
from dinov3.models.shapes import Product, SplitQkv, ffn_names, shape_of
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import QKV


def blocks_of(backbone: Backbone) -> list[Block]:
    """The blocks of a vision transformer with float weights; CompressError for anything else."""
    if not isinstance(backbone, DinoVisionTransformer):
        raise CompressError(
            f"{type(backbone).__name__}: only vision transformers are made smaller, or stored in fewer bits, here"
        )
    if backbone.config.int8 is not None:
        raise CompressError("the model is in 8 bits already: compress the float model it was made of")
    return [cast(Block, block) for block in backbone.blocks]


def rebuilt(backbone: Backbone) -> Backbone:
    """The compressed model as it will be loaded: built from its description, with these weights, bit for bit.

    Unchanged models come back without ``block_shapes``.
    """
    assert isinstance(backbone, DinoVisionTransformer)
    shapes = tuple(shape_of(block) for block in backbone.blocks)
    plain = DinoVisionTransformer(
        device="meta", **{**describe_backbone(backbone)["config"], "block_shapes": None, "int8": None}
    )
    cut = shapes != tuple(shape_of(block) for block in plain.blocks)
    backbone.config = replace(backbone.config, block_shapes=shapes if cut else None)
    again = backbone_from_description(describe_backbone(backbone), next(backbone.parameters()).device)
    again.load_state_dict(backbone.state_dict(), strict=True)
    preprocess: Any = getattr(backbone, "preprocess", None)
    if preprocess is not None:
        object.__setattr__(again, "preprocess", preprocess)
    return again.eval()


def matrix_names(block: Block) -> tuple[str, ...]:
    """The block's matrices: q, k, v, proj and fc1, fc2 or w1, w2, w3."""
    return (*QKV, "proj", *ffn_names(block.mlp))


def layer(block: Block, name: str) -> nn.Module:
    """The module that holds a matrix; for q, k, v of a fused projection the whole of it."""
    if name in QKV:
        qkv: nn.Module = block.attn.qkv
        return cast(nn.Module, getattr(qkv, name)) if isinstance(qkv, SplitQkv) else qkv
    return cast(nn.Module, getattr(block.attn if name == "proj" else block.mlp, name))


def weight_of(block: Block, name: str) -> Tensor | None:
    """A matrix [out, in]; None when it is a product of two already."""
    found = layer(block, name)
    if isinstance(found, Product):
        return None
    weight = cast(nn.Linear, found).weight.detach()
    return weight.chunk(3)[QKV.index(name)] if name in QKV and not isinstance(block.attn.qkv, SplitQkv) else weight


def dense(block: Block, name: str) -> Tensor:
    """``weight_of``; CompressError when it is a product."""
    weight = weight_of(block, name)
    if weight is None:
        raise CompressError(f"{name} is a product of two already: put svd and whitened last")
    return weight


def head_energies(block: Block) -> Tensor:
    """Squared norm of each head's columns of the output projection, [heads] float64."""
    weight = dense(block, "proj")
    return weight.double().square().sum(0).unflatten(0, (block.attn.num_heads, -1)).sum(1)


def neuron_energies(block: Block) -> Tensor:
    """Squared norm of each neuron's row of the up matrix times that of its column of the down matrix, [hidden] float64.

    Gated networks: up is w2; the gate w1 does not enter.
    """
    up, down = (dense(block, name) for name in ffn_names(block.mlp)[-2:])
    return up.double().square().sum(1) * down.double().square().sum(0)


@torch.no_grad()
def keep_heads(block: Block, kept: Tensor) -> None:
    """Keep the heads ``kept`` (rising indices), with their rows of queries, keys and values."""
    attn = block.attn
    if isinstance(attn.qkv, SplitQkv) or isinstance(attn.proj, Product):
        raise CompressError("heads are removed before matrices are factorised: put svd and whitened last")
    heads, width = attn.num_heads, attn.head_dim
    columns = (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()
    rows = torch.cat([columns + part * heads * width for part in range(3)])
    attn.qkv = _with_rows(attn.qkv, rows)
    attn.proj = _with_columns(attn.proj, columns)
    attn.num_heads = len(kept)


@torch.no_grad()
def keep_neurons(block: Block, kept: Tensor) -> None:
    """Keep the hidden neurons ``kept`` (rising indices); in a gated network of gate and up alike."""
    names = ffn_names(block.mlp)
    if any(isinstance(layer(block, name), Product) for name in names):
        raise CompressError("neurons are removed before matrices are factorised: put svd and whitened last")
    for name in names[:-1]:
        setattr(block.mlp, name, _with_rows(cast(nn.Linear, layer(block, name)), kept))
    setattr(block.mlp, names[-1], _with_columns(cast(nn.Linear, layer(block, names[-1])), kept))


@torch.no_grad()
def factorise(block: Block, name: str, first: Tensor, second: Tensor, bias: Tensor | None = None) -> None:
    """Put ``second`` [out, r] @ ``first`` [r, in] in the place of a matrix; ``bias`` None keeps the old one."""
    if name in QKV and not isinstance(block.attn.qkv, SplitQkv):
        block.attn.qkv = _split(block.attn.qkv)  # type: ignore[assignment]
    old = cast(nn.Linear, layer(block, name))
    made = Product(old.in_features, old.out_features, first.shape[0], bias=old.bias is not None)
    made.to(old.weight)
    made.first.weight.copy_(first)
    made.second.weight.copy_(second)
    if old.bias is not None:
        made.second.bias.copy_(old.bias if bias is None else bias)
    setattr(block.attn.qkv if name in QKV else block.attn if name == "proj" else block.mlp, name, made)


def _with_rows(old: nn.Linear, rows: Tensor) -> nn.Linear:
    new = _like(old, old.in_features, len(rows))
    new.weight.copy_(old.weight[rows])
    if old.bias is not None:
        new.bias.copy_(old.bias[rows])
    if isinstance(old, KeyBiasMaskedLinear):
        cast(KeyBiasMaskedLinear, new).bias_mask.copy_(old.bias_mask[rows])
    return new


def _with_columns(old: nn.Linear, columns: Tensor) -> nn.Linear:
    new = _like(old, len(columns), old.out_features)
    new.weight.copy_(old.weight[:, columns])
    if old.bias is not None:
        new.bias.copy_(old.bias)
    return new


def _like(old: nn.Linear, in_features: int, out_features: int) -> nn.Linear:
    if isinstance(old, KeyBiasMaskedLinear):
        return KeyBiasMaskedLinear(in_features, out_features).to(old.weight)
    return nn.Linear(in_features, out_features, bias=old.bias is not None).to(old.weight)


def _split(qkv: nn.Linear) -> SplitQkv:
    """Queries, keys and values apart; a masked key bias, which never acts, is left out."""
    masked, parts = isinstance(qkv, KeyBiasMaskedLinear), []
    biases = None if qkv.bias is None else qkv.bias.chunk(3)
    if isinstance(qkv, KeyBiasMaskedLinear):
        if bool(qkv.bias_mask.chunk(3)[1].any()):
            raise CompressError("the keys have a bias under a mask that is not 0: keep the attention unfactorised")
        biases = qkv.effective_bias().chunk(3)
    for index, weight in enumerate(qkv.weight.chunk(3)):
        has_bias = biases is not None and not (masked and index == QKV.index("k"))
        part = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias).to(weight)
        part.weight.copy_(weight)
        if has_bias:
            part.bias.copy_(biases[index])
        parts.append(part)
    return SplitQkv(*parts)
