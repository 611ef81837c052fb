"""Dimensions of the architectures and the settings of the released models."""

from __future__ import annotations

from typing import Any

# What `student.arch` names: the dimensions only, all else comes from the config. vit_tiny is ours, for small tests.
VIT_ARCHS: dict[str, dict[str, Any]] = {
    "vit_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3, "ffn_ratio": 4.0},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "ffn_ratio": 4.0},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "ffn_ratio": 4.0},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "ffn_ratio": 4.0},
    "vit_so400m": {"embed_dim": 1152, "depth": 27, "num_heads": 18, "ffn_ratio": 3.777777778},
    "vit_huge2": {"embed_dim": 1280, "depth": 32, "num_heads": 20, "ffn_ratio": 4.0},
    "vit_giant2": {"embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn_ratio": 4.0},
    "vit_7b": {"embed_dim": 4096, "depth": 40, "num_heads": 32, "ffn_ratio": 3.0},
}
CONVNEXT_ARCHS: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768]},
    "convnext_small": {"depths": [3, 3, 27, 3], "dims": [96, 192, 384, 768]},
    "convnext_base": {"depths": [3, 3, 27, 3], "dims": [128, 256, 512, 1024]},
    "convnext_large": {"depths": [3, 3, 27, 3], "dims": [192, 384, 768, 1536]},
}

_RELEASED = {
    "patch_size": 16,
    "pos_embed_rope_base": 100.0,
    "pos_embed_rope_rescale_coords": 2.0,
    "pos_embed_rope_dtype": "fp32",
    "layerscale_init": 1e-5,
    "norm_layer": "layernormbf16",
    "n_storage_tokens": 4,
    "mask_k_bias": True,
}
_PLUS = {"ffn_layer": "swiglu", "ffn_ratio": 6.0}
_SEVEN_B = {"ffn_layer": "swiglu64", "qkv_bias": False, "untie_global_and_local_cls_norm": True}

# Released models: constructor arguments. The two SAT493M models were trained on satellite images.
PRESETS: dict[str, dict[str, Any]] = {
    "dinov3_vits16": _RELEASED | VIT_ARCHS["vit_small"],
    "dinov3_vits16plus": _RELEASED | VIT_ARCHS["vit_small"] | _PLUS,
    "dinov3_vitb16": _RELEASED | VIT_ARCHS["vit_base"],
    "dinov3_vitl16": _RELEASED | VIT_ARCHS["vit_large"],
    "dinov3_vitl16__SAT493M": _RELEASED | VIT_ARCHS["vit_large"] | {"untie_global_and_local_cls_norm": True},
    "dinov3_vitl16plus": _RELEASED | VIT_ARCHS["vit_large"] | _PLUS,
    "dinov3_vith16plus": _RELEASED | VIT_ARCHS["vit_huge2"] | _PLUS,
    "dinov3_vit7b16": _RELEASED | VIT_ARCHS["vit_7b"] | _SEVEN_B,
    "dinov3_vit7b16__SAT493M": _RELEASED | VIT_ARCHS["vit_7b"] | _SEVEN_B,
    "dinov3_convnext_tiny": CONVNEXT_ARCHS["convnext_tiny"],
    "dinov3_convnext_small": CONVNEXT_ARCHS["convnext_small"],
    "dinov3_convnext_base": CONVNEXT_ARCHS["convnext_base"],
    "dinov3_convnext_large": CONVNEXT_ARCHS["convnext_large"],
}
