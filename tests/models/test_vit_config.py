from __future__ import annotations

from typing import Any

import pytest

from dinov3.models.vit_config import VitConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 100, "num_heads": 3}, "embed_dim 100 is not a multiple of num_heads 3"),
        ({"norm_layer": "batchnorm"}, "norm_layer 'batchnorm': choose from .*rmsnorm"),
        ({"ffn_layer": "moe"}, "ffn_layer 'moe': choose from .*swiglu64"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate 1.0 is not in \[0, 1\)"),
        ({"img_size": 8}, "img_size 8 is smaller than patch_size 16"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VitConfig(**settings)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="pos_embed_type"):
        VitConfig(pos_embed_type="sincos")  # type: ignore[call-arg]
