"""Small models with weights that matter: every tensor random, so that a swapped or forgotten one shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinov3.contracts import Features
from dinov3.models.backbone import Backbone
from dinov3.models.convnext import ConvNeXt
from dinov3.models.presets import PRESETS
from dinov3.models.vit import DinoVisionTransformer


def activated(model: Backbone, seed: int = 0) -> Backbone:
    """Norms near 1, LayerScale near 0.5, everything else N(0, 0.1); buffers as they are computed."""
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)  # type: ignore[operator]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("gamma"):
                parameter.copy_(0.5 + 0.1 * noise)
            else:
                parameter.copy_(0.1 * noise)
    return model.eval()


def tiny_vit(seed: int = 0, **changes: Any) -> Backbone:
    """A released ViT's settings at width 64."""
    settings = PRESETS["dinov3_vits16"] | {"img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return activated(DinoVisionTransformer(**settings | changes), seed)


def tiny_convnext(seed: int = 0, **changes: Any) -> Backbone:
    return activated(ConvNeXt(**{"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]} | changes), seed)


def tiny_preset(name: str) -> Backbone:
    """A released model's kind of every layer and its head width, with one block or cell of each size."""
    settings = dict(PRESETS[name])
    if "depths" in settings:
        return tiny_convnext()
    head_dim = settings["embed_dim"] // settings["num_heads"]
    return tiny_vit(**settings | {"embed_dim": 2 * head_dim, "num_heads": 2, "depth": 2})


@torch.no_grad()
def tokens_of(model: Backbone, x: Tensor) -> Tensor:
    """[N, 1 + R + P, D]: class token, storage tokens, patches."""
    out = model.eval()(x, is_training=True)
    assert isinstance(out, Features)
    return torch.cat([out.cls[:, None], out.storage, out.patches], dim=1)
