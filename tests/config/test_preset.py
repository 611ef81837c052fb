"""student.preset: the architecture of a released model, whole or an error."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import pytest

from dinov3.config.blocks_model import Preset
from dinov3.config.dump import to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.presets import FIXED_BY_PRESET, RELEASED
from dinov3.models.build import build_backbone, build_preset


def test_every_released_model_is_a_preset() -> None:
    assert list(get_args(Preset)) == list(RELEASED)


@pytest.mark.parametrize("name", RELEASED)
def test_a_preset_builds_the_released_model(name: str) -> None:
    cfg = load_config(None, [f"student.preset={name}", "student.drop_path_rate=0"])
    student = build_backbone(cfg.student, img_size=224, device="meta")
    shapes = {k: v.shape for k, v in student.state_dict().items()}
    assert shapes == {k: v.shape for k, v in build_preset(name, "meta").state_dict().items()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "student.n_storage_tokens=0",
            "student.n_storage_tokens: 0, but student.preset dinov3_vits16 has 4: remove one",
        ),
        ("student.ffn_layer=swiglu", "student.ffn_layer: swiglu, but student.preset dinov3_vits16 has mlp"),
        ("student.depth=3", "student.depth: 3, but student.preset dinov3_vits16 has null"),
        ("student.pos_embed_rope_base=50", "pos_embed_rope_base: 50, but student.preset dinov3_vits16 has 100.0"),
    ],
)
def test_a_flag_that_contradicts_the_preset_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["student.preset=dinov3_vits16", override])
    assert message in str(caught.value)


def test_a_flag_that_repeats_the_preset_is_allowed_so_a_resolved_config_loads_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cfg = load_config(None, ["student.preset=dinov3_vitl16plus"])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    assert asdict(load_config(tmp_path / "config.yaml")) == asdict(cfg)


def test_what_only_training_sees_stays_free() -> None:
    cfg = load_config(
        None,
        [
            "student.preset=dinov3_vits16",
            "student.pos_embed_rope_rescale_coords=null",
            "student.in_chans=1",
            "crops.rgb_mean=[0.5]",
            "crops.rgb_std=[0.2]",
        ],
    )
    assert cfg.student.pos_embed_rope_rescale_coords is None
    assert "in_chans" not in FIXED_BY_PRESET


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["student.pretrained_weights=a", "student.resume_from_teacher_chkpt=b"],
            "student.pretrained_weights is given too",
        ),
        (["student.pretrained_allow=[mask_token]"], "no student.pretrained_weights are given"),
        (["student.preset=dinov3_vits"], "did you mean dinov3_vits16"),
    ],
)
def test_contradictions_about_the_start_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)
