"""student.preset: the architecture of a released model, whole or an error."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest

from dinov3.config.blocks.model import Preset
from dinov3.config.checks_continued import refuse_an_idle_backbone
from dinov3.config.dump import to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_stages
from dinov3.config.presets import FIXED_BY_PRESET, RELEASED
from dinov3.config.schema import StudentConfig
from dinov3.models.build import build_backbone, build_preset

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "train"


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


def test_a_preset_of_the_command_line_takes_the_place_of_an_architecture_in_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("student: {arch: vit_small, patch_size: 16, n_storage_tokens: 0, depth: 3, drop_path_rate: 0.0}")
    cfg = load_config(file, ["student.preset=dinov3_vitb16"])
    assert cfg.student == load_config(None, ["student.preset=dinov3_vitb16", "student.drop_path_rate=0.0"]).student
    (line,) = caplog.messages
    assert line == (
        f"{file}: student.preset dinov3_vitb16 of command line takes the place of "
        "student.arch, student.n_storage_tokens, student.depth"
    )


def test_an_architecture_given_beside_or_after_a_preset_is_still_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("student: {preset: dinov3_vits16, arch: vit_base}")
    with pytest.raises(ConfigError, match=r"student\.arch: vit_base, but student\.preset dinov3_vits16 has vit_small"):
        load_config(file)
    file.write_text("student: {preset: dinov3_vits16}")
    with pytest.raises(ConfigError, match=r"command line: student\.arch: vit_base, but"):
        load_config(file, ["student.arch=vit_base"])
    for words in (["student.preset=dinov3_vits16", "student.arch=vit_base"],):
        with pytest.raises(ConfigError):
            load_config(None, words)
        with pytest.raises(ConfigError):
            load_config(None, words[::-1])


def test_a_stage_may_have_a_preset_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text("stages: [a]\nstage: {a: {student: {preset: dinov3_vitb16}}}\nstudent: {arch: vit_small}")
    assert load_stages(file)[0].cfg.student.arch == "vit_base"


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("recipe", ["continue_small", "photos_vits"])
def test_a_recipe_that_continues_takes_every_released_model(recipe: str, name: str) -> None:
    """The example of the README: a preset and its weights on the command line, nothing else."""
    words = [f"student.preset={name}", "student.pretrained_weights=/weights", "train.dataset_path=/images"]
    cfg = load_config(RECIPES / f"{recipe}.yaml", words)
    fixed = {key: RELEASED[name].get(key, getattr(StudentConfig(), key)) for key in FIXED_BY_PRESET}
    assert {key: getattr(cfg.student, key) for key in FIXED_BY_PRESET} == fixed
    refuse_an_idle_backbone(cfg, heads_missing=True)


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
        (["student.preset=[]"], "student.preset"),
    ],
)
def test_contradictions_about_the_start_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)
