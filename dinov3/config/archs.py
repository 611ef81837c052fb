"""What ``student.arch`` names: the dimensions only, all else comes from the config."""

from __future__ import annotations

from typing import Any

# vit_tiny is ours, for small tests.
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
