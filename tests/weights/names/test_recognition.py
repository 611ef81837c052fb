from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dinov3.models.convnext import ConvNeXt
from dinov3.models.ffn import FFN_LAYERS
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.names.recognition import differences, ffn_ratio, seen_settings, vit_arguments

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "data" / "F01_architectures.json").read_text())
Shapes = dict[str, tuple[int, ...]]


def shapes_of(name: str) -> Shapes:
    return {key: tuple(shape) for key, shape, _ in GOLDEN[name]["keys"] if not key.startswith("norms.")}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_official_model_is_built_again_from_its_names_and_shapes(name: str) -> None:
    shapes = shapes_of(name)
    seen = seen_settings(shapes)
    model = (
        ConvNeXt(**seen, device="meta")
        if "dims" in seen
        else DinoVisionTransformer(**vit_arguments(seen), device="meta")
    )
    assert {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.startswith("norms.")} == shapes


def test_a_whitened_stem_is_told_apart_from_patches() -> None:
    settings = {"patch_size": 8, "in_chans": 2, "embed_dim": 32, "depth": 1, "num_heads": 2}
    seen = {}
    for stem in (None, "whitened"):
        model = DinoVisionTransformer(**settings, stem=stem, device="meta")
        seen[stem] = seen_settings({k: tuple(v.shape) for k, v in model.state_dict().items()})
    assert seen["whitened"] == {k: v for k, v in seen[None].items() if k != "patch_size"} | {
        "stem": "whitened",
        "stem_filters": 16,
    }
    assert dict(differences(seen["whitened"], seen[None])) == {
        "student.stem": "patch, the file has whitened: set it to whitened",
    }


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@pytest.mark.parametrize("dim", [64, 96, 384, 1152])
def test_a_ratio_is_found_for_every_hidden_width(kind: str, dim: int) -> None:
    for hidden in range(8, 6 * dim, 8):
        ffn: Any = FFN_LAYERS[kind]
        ratio = ffn_ratio(dim, hidden, kind)
        inner = int(dim * ratio)
        assert (inner if kind == "mlp" else -(-int(inner * 2 / 3) // 8) * 8) == hidden
        assert ffn is not None
    if kind == "swiglu":
        with pytest.raises(ValueError, match="a multiple of 8"):
            ffn_ratio(dim, 12, kind)


def test_the_architecture_that_fits_is_named() -> None:
    seen = {name: seen_settings(shapes_of(f"dinov3_{name}")) for name in ("vits16", "vitb16", "convnext_small")}
    found = dict(differences(seen["vitb16"], seen["vits16"]))
    assert found["student.embed_dim"] == "384, the file has 768: set student.arch to vit_base"
    assert not {"student.num_heads", "student.ffn_ratio"} & found.keys(), "they go with the width"
    assert dict(differences(seen["convnext_small"], seen["vits16"])) == {
        "student.arch": "the file holds a ConvNeXt, the student is a vision transformer"
    }
    tiny = seen_settings(shapes_of("dinov3_convnext_tiny"))
    assert dict(differences(seen["convnext_small"], tiny))["student.arch"].endswith(
        "set student.arch to convnext_small"
    )
    assert not list(differences(seen["vitb16"], seen["vitb16"]))
