from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS
from dinov3.config.schema import StudentConfig
from dinov3.models import build
from dinov3.models.convnext import ConvNeXt, ConvNeXtBlock
from dinov3.models.presets import PRESETS
from dinov3.models.vit import DinoVisionTransformer


def student(**changes: Any) -> StudentConfig:
    return replace(StudentConfig(), **{"arch": "vit_tiny"} | changes)


def built(**changes: Any) -> DinoVisionTransformer:
    model = build.build_backbone(student(**changes), img_size=64, device="meta")
    assert isinstance(model, DinoVisionTransformer)
    return model


@pytest.mark.parametrize("arch", [*VIT_ARCHS, *CONVNEXT_ARCHS])
def test_every_arch_is_built_with_its_own_width(arch: str) -> None:
    model = build.build_backbone(student(arch=arch), img_size=224, device="meta")
    dims = VIT_ARCHS.get(arch) or CONVNEXT_ARCHS[arch]
    assert model.embed_dim == (dims["embed_dim"] if arch in VIT_ARCHS else dims["dims"][-1])
    assert all(p.is_meta for p in model.parameters())


def test_an_unknown_arch_names_the_nearest_and_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"student.arch 'vit_lage' is unknown: did you mean 'vit_large'\?.*convnext_tiny"
    ):
        build.build_backbone(student(arch="vit_lage"), img_size=224)


def test_the_ffn_ratio_is_the_archs_own_unless_given() -> None:
    assert built(arch="vit_7b", ffn_ratio=None, depth=1).config.ffn_ratio == 3.0
    assert built(arch="vit_so400m", ffn_ratio=None, depth=1).config.ffn_ratio == 3.777777778
    assert built(ffn_ratio=2.0).blocks[0].mlp.fc1.out_features == 384  # type: ignore[union-attr]


def test_dimensions_can_be_replaced() -> None:
    model = built(embed_dim=96, depth=3, num_heads=6)
    assert (model.embed_dim, model.n_blocks, model.config.num_heads) == (96, 3, 6)


def test_settings_reach_the_model() -> None:
    changes: dict[str, Any] = {
        "patch_size": 8,
        "in_chans": 1,
        "layerscale": 0.25,
        "norm_layer": "rmsnorm",
        "ffn_layer": "swiglu64",
        "qkv_bias": False,
        "proj_bias": False,
        "ffn_bias": False,
        "n_storage_tokens": 3,
        "mask_k_bias": True,
        "untie_cls_and_patch_norms": True,
        "untie_global_and_local_cls_norm": True,
        "pos_embed_rope_base": None,
        "pos_embed_rope_min_period": 0.5,
        "pos_embed_rope_max_period": 9.0,
        "pos_embed_rope_normalize_coords": "max",
        "pos_embed_rope_shift_coords": 0.1,
        "pos_embed_rope_jitter_coords": 1.1,
        "pos_embed_rope_rescale_coords": 1.2,
        "pos_embed_rope_dtype": "fp32",
        "drop_path_rate": 0.2,
    }
    config = built(**changes).config
    for key, value in changes.items():
        assert getattr(config, {"layerscale": "layerscale_init"}.get(key, key)) == value, key
    assert config.img_size == 64


def test_a_teacher_drops_no_path() -> None:
    cfg = student(drop_path_rate=0.3)
    teacher = build.build_backbone(cfg, img_size=64, drop_path=False, device="meta")
    assert isinstance(teacher, DinoVisionTransformer)
    assert teacher.config.drop_path_rate == 0.0
    frozen = build.build_backbone(replace(cfg, arch="convnext_tiny"), img_size=64, drop_path=False, device="meta")
    assert not any(m.drop_path for m in frozen.modules() if isinstance(m, ConvNeXtBlock))


def test_a_convnext_takes_its_settings_and_refuses_a_width() -> None:
    model = build.build_backbone(
        student(arch="convnext_tiny", in_chans=1, drop_path_rate=0.1), img_size=64, device="meta"
    )
    assert isinstance(model, ConvNeXt)
    assert (model.config.in_chans, model.patch_size, model.config.drop_path_rate) == (1, None, 0.1)
    with pytest.raises(ValueError, match=r"student\.depth is for vision transformers"):
        build.build_backbone(student(arch="convnext_tiny", depth=3), img_size=64)


def test_a_preset_is_checked_by_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'dinov3_vits16'"):
        build.build_preset("dinov3_vits14")


@pytest.mark.parametrize("name", ["dinov3_vits16plus", "dinov3_convnext_tiny"])
def test_a_description_survives_json_and_builds_the_same_model(name: str) -> None:
    model = build.build_preset(name, "meta")
    description = json.loads(json.dumps(build.describe_backbone(model)))
    again = build.backbone_from_description(description, "meta")
    assert type(again) is type(model)
    assert build.describe_backbone(again) == description
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, again)]
    assert shapes[0] == shapes[1]
    assert build.describe_backbone(
        build.backbone_from_description({"preset": name}, "meta")
    ) == build.describe_backbone(model)


def test_what_is_no_backbone_of_ours_is_not_described() -> None:
    with pytest.raises(TypeError, match="Linear"):
        build.describe_backbone(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="'Resnet' is unknown"):
        build.backbone_from_description({"class": "Resnet", "config": {}})


def test_a_released_model_is_recognised_by_its_shapes() -> None:
    for name in PRESETS:
        state = build.build_preset(name, "meta").state_dict()
        shapes = {k: tuple(v.shape) for k, v in state.items() if not k.startswith("norms.")}
        found = build.matching_preset(shapes)
        assert found is not None
        assert found.split("__")[0] == name.split("__")[0]
        assert build.matching_preset({k: s for k, s in shapes.items() if k != "norm.bias"}) is None


def test_only_the_untied_norm_tells_the_satellite_vit_l() -> None:
    assert build.matching_preset(_shapes("dinov3_vitl16__SAT493M")) == "dinov3_vitl16__SAT493M"
    assert build.matching_preset(_shapes("dinov3_vitl16")) == "dinov3_vitl16"


def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in build.build_preset(name, "meta").state_dict().items()}


def test_a_model_on_a_device_is_nan_until_initialised() -> None:
    model = build.vit_tiny(depth=1, device="cpu")
    assert model(torch.zeros(1, 3, 16, 16)).isnan().all()
    model.init_weights(torch.Generator().manual_seed(0))
    assert model.eval()(torch.zeros(1, 3, 16, 16)).isfinite().all()
