"""Pieces of a diffusion transformer (Peebles and Xie 2022) that sees text and image features through one cross-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # of the norm whose affine part the modulation is


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``LN(x) * (1 + scale) + shift``: tokens ``x [N, T, D]``, ``shift`` and ``scale`` ``[N, D]`` (adaLN)."""
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS)
    return normed * (1 + scale[:, None]) + shift[:, None]


def context_bias(text_mask: Tensor, features: int, feature_bias: Tensor | float = 0.0) -> Tensor:
    """What is added to the attention on each key, ``[N, 1, 1, L + features]``: text first, then class token and patches.

    ``text_mask [N, L]`` is True where there is text; padding gets -inf. ``feature_bias`` weakens features in a model that
    has only seen text: -inf is that model. A row with neither text nor features has no key, and its result no meaning.
    """
    dtype = feature_bias.dtype if isinstance(feature_bias, Tensor) else torch.get_default_dtype()
    text = torch.zeros(text_mask.shape, dtype=dtype, device=text_mask.device).masked_fill(~text_mask, -torch.inf)
    value = torch.as_tensor(feature_bias, dtype=dtype, device=text_mask.device)
    return torch.cat([text, value.expand(len(text_mask), features)], dim=1)[:, None, None]


def cross_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Queries ``[N, heads, T, D]`` on keys and values ``[N, heads, K, D]``, ``bias`` added to ``q k / sqrt(D)``."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


def plain_cross_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """``cross_attention`` written out; NaN where a row has no key."""
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias.to(q.dtype)).softmax(-1)
    return weights @ v
