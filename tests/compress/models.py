"""Small backbones whose weights do something, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dinov3.models.vit import DinoVisionTransformer


def vit(seed: int = 0, **settings: Any) -> DinoVisionTransformer:
    """Random, in eval mode; its matrices are ten times larger than at the start of a training, so that blocks matter."""
    small: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "layerscale_init": 0.5,
        "mask_k_bias": True,
        "n_storage_tokens": 1,
        "ffn_ratio": 2.0,
        "pos_embed_rope_dtype": "fp32",
    }
    model = DinoVisionTransformer(**{**small, **settings})
    generator = torch.Generator().manual_seed(seed)
    model.init_weights(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.2, generator=generator)
            elif parameter.ndim == 2 and "token" not in name:
                parameter.mul_(10.0)
    return model.eval()


def images(count: int = 12, side: int = 32, seed: int = 1) -> Tensor:
    """[count, 3, side, side]: smooth fields, of lower rank than noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def batches(count: int = 24, side: int = 32, seed: int = 1) -> list[Tensor]:
    return list(images(count, side, seed).split(8))
