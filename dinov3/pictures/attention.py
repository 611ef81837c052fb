"""Where a ViT looks, and what looks alike: maps over the patches of an image."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.models.packing import unpack
from dinov3.models.vit import DinoVisionTransformer


@torch.no_grad()
def attention_maps(backbone: nn.Module, images: Tensor, layer: int = -1) -> Tensor:
    """Attention of the class token to every patch, by head: ``[N, heads, rows, cols]``.

    ``images [N, C, H, W]``, normalised; ``layer``: index of the block. A map sums to less than 1: the class token and
    the storage tokens take the rest. ValueError for a ConvNeXt, which has no attention.
    """
    if not isinstance(backbone, DinoVisionTransformer):
        raise ValueError("attention maps need a ViT, a ConvNeXt has no attention: use similarity maps")
    depth = len(cast(Any, backbone.blocks))
    if not -depth <= layer < depth:
        raise ValueError(f"layer {layer}: the backbone has blocks 0 to {depth - 1}")
    attention = cast(Any, backbone.blocks)[layer].attn
    seen: list[Any] = []
    hook = attention.register_forward_pre_hook(lambda _, args: seen.append(args))
    try:
        rows, cols = backbone(images, is_training=True).grid
    finally:
        hook.remove()
    x, sizes, rotations = seen[0]
    q, k, _ = attention.heads(unpack(attention.qkv(x), sizes)[0], rotations[0])  # [N, heads, T, D_head]
    weights = torch.softmax(q[:, :, 0:1] @ k.mT / q.shape[-1] ** 0.5, dim=-1)  # [N, heads, 1, T]
    return weights[:, :, 0, -rows * cols :].unflatten(2, (rows, cols)).float()


def similarity_map(patches: Tensor, grid: tuple[int, int], point: tuple[float, float]) -> Tensor:
    """Cosine of every patch ``[P, D]`` of an image to the one under ``point``: ``[rows, cols]`` in [-1, 1].

    ``point``: (down, right), as shares of the image's height and width between 0 and 1.
    """
    row, col = (min(int(share * n), n - 1) for share, n in zip(point, grid, strict=True))
    unit = F.normalize(patches.float(), dim=-1)
    return (unit @ unit[row * grid[1] + col]).unflatten(0, grid)
