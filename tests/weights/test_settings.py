"""Numbers and words of files are checked before anything is built with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dinov3.models.build import describe_backbone
from dinov3.weights.description import OURS, as_metadata
from dinov3.weights.own import description, load_backbone, write_backbone
from dinov3.weights.provenance import Facts
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.settings import checked_settings
from tests.weights.random_models import tiny_convnext, tiny_vit
from tests.weights.test_layouts import hf_folder, timm_file

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": 64}
HUGE = 10**4000  # json reads it, float() does not, and print() does not either above 4,300 digits
ODD: list[tuple[str, Any, str]] = [
    ("num_heads", 0, "num_heads is 0: a whole number from 1"),
    ("num_heads", 3, "is not a multiple of num_heads 3"),
    ("embed_dim", -96, "embed_dim is -96: a whole number"),
    ("embed_dim", HUGE, "embed_dim is a number of more than 19 digits"),
    ("embed_dim", 96, "embed_dim 96, its tensors have 64: they do not belong together"),
    ("depth", 100_000, "depth is 100000: a whole number from 1 to 65536"),
    ("depth", 60_000, "depth 60000, its tensors have 2"),
    ("depth", "2", "depth is '2': a whole number"),
    ("depth", 2.5, "depth is 2.5: a whole number"),
    ("depth", None, "depth is None"),
    ("depth", True, "depth is True"),
    ("depth", [2], "depth is a list"),
    ("ffn_ratio", float("inf"), "ffn_ratio is inf"),
    ("ffn_ratio", float("nan"), "ffn_ratio is nan"),
    ("ffn_ratio", HUGE, "ffn_ratio is a number of more than"),
    ("ffn_ratio", 1e5, "does not fit the model"),
    ("ffn_ratio", -1.0, "ffn_ratio is -1.0"),
    ("ffn_ratio", 0.0, "ffn_ratio is 0.0"),
    ("ffn_ratio", 1e-5, "does not fit the model"),
    ("patch_size", 60_000, "patch_size 60000, its tensors have 16|smaller than patch_size"),
    ("in_chans", 10**9, "in_chans is 1000000000"),
    ("n_storage_tokens", -1, "n_storage_tokens is -1"),
    ("norm_layer", "x" * 10_000, "norm_layer"),
    ("norm_layer", 3, "norm_layer is 3: text is wanted"),
    ("ffn_layer", "\x1b[31m", "ffn_layer"),
    ("qkv_bias", "no", "qkv_bias is 'no': true or false is wanted"),
    ("pos_embed_rope_dtype", "int8", "fits no model here"),
    ("pos_embed_rope_base", None, "fits no model here"),
    ("surprise", 1, "describes a DinoVisionTransformer with surprise, which is unknown here"),
    ("drop_path_rate", 2.0, "drop_path_rate"),
]


def refused(path: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        load_backbone(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("key", "value", "words"), ODD, ids=range(len(ODD)))
def test_a_description_that_no_backbone_has_is_one_line_in_every_place_it_is_read_from(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    model = tiny_vit()
    write_backbone(tmp_path, model, PREPROCESS)
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    refused(tmp_path, words)
    (tmp_path / "config.json").rename(tmp_path / "x.json")
    torch.save(dict(model.state_dict()), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", words)
    state = load_file(tmp_path / "backbone.safetensors")
    save_file(state, tmp_path / "y.safetensors", {OURS: json.dumps(content)})
    refused(tmp_path / "y.safetensors", words)


REST = [
    ({"class": "ConvNeXt"}, "unknown here"),
    ({"class": "Linear"}, "describes a 'Linear': known are"),
    ({"class": ["x"]}, "describes a a list"),
    ({"format_version": HUGE}, "format version a number of more than 19 digits"),
    ({"fingerprint": "abc"}, "its fingerprint is 'abc'"),
    ({"fingerprint": [1.0] * 100_000}, "its fingerprint is a list"),
    ({"fingerprint": [float("nan")] * 16}, "fingerprint is nan"),
    ({"preprocess": {"mean": "grey"}}, "mean is 'grey'"),
    ({"preprocess": {"mean": [None]}}, "mean is None"),
    ({"preprocess": {"std": [0.0]}}, "std is 0.0"),
    ({"preprocess": {"size": 0}}, "size is 0"),
    ({"preprocess": 3}, "preprocess is 3"),
    ({"provenance": "mine"}, "its provenance is not a table of texts"),
    ({"provenance": {"rows": [["a", "b" * 3000]], "recipe": ""}}, "its provenance is not"),
]


@pytest.mark.parametrize(("changes", "words"), REST)
def test_the_rest_of_a_description_is_checked_too(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_backbone(tmp_path, tiny_vit(), PREPROCESS)
    content = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    refused(tmp_path, words)


def test_a_description_cannot_ask_for_a_released_model(tmp_path: Path) -> None:
    """27 GB for a file of a few bytes."""
    write_backbone(tmp_path, tiny_vit(), PREPROCESS)
    content = json.loads((tmp_path / "config.json").read_text()) | {"preset": "dinov3_vit7b16"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_backbone(tmp_path).embed_dim == 64


def test_a_preset_that_a_file_does_not_fit_is_told_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backbone(tmp_path, tiny_vit(), PREPROCESS)
    built: list[Any] = []
    from dinov3.weights import own

    real = own.backbone_from_description
    monkeypatch.setattr(
        own, "backbone_from_description", lambda d, device=None: built.append(device) or real(d, device)
    )
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_backbone(tmp_path, preset="dinov3_vits16")
    assert built == ["meta"]


HF = [
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_attention_heads": 5}, "a width of 64 has no 5 heads"),
    ({"num_attention_heads": "2"}, "num_attention_heads is '2'"),
    ({"num_attention_heads": HUGE}, "num_attention_heads is a number of more than"),
    ({"rope_theta": "big"}, "rope_theta is 'big'"),
    ({"rope_theta": 0}, "rope_theta is 0"),
    ({"rope_theta": HUGE}, "rope_theta is a number of more than"),
    ({"layer_norm_eps": None}, "layer_norm_eps is None"),
    ({"image_size": []}, "image_size is a list"),
    ({"image_size": [-1, -1]}, "image_size is -1"),
    ({"hidden_act": ["gelu"] * 1000}, "hidden_act a list"),
    ({"model_type": "y" * 5000}, "config.json says model_type"),
]


@pytest.mark.parametrize(("changes", "words"), HF)
def test_a_hugging_face_config_is_checked_too(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, words)


def test_the_image_processor_of_a_hugging_face_folder_is_checked_too(tmp_path: Path) -> None:
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    for processor, words in (
        ({"image_mean": ["a"], "image_std": [1]}, "mean is 'a'"),
        ({"image_mean": [0], "image_std": [0]}, "std is 0"),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        refused(folder, words)


@pytest.mark.parametrize("shape", [(), (64,), (64, 3, 16), (0, 3, 16, 16), (64, 3, 16, 16, 1)])
@pytest.mark.parametrize(
    "name", ["patch_embed.proj.weight", "cls_token", "rope_embed.periods", "blocks.0.mlp.fc1.weight"]
)
def test_tensors_of_impossible_dimensions_are_one_line(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    for build, file in ((tiny_vit, "meta.safetensors"), (tiny_vit, "timm.safetensors")):
        if file == "meta.safetensors":
            state = {k: v.clone() for k, v in build().state_dict().items()}
        else:
            state = load_file(timm_file(build(), tmp_path / file))
        if (name in state and len(shape) != state[name].ndim) or 0 in shape:
            state[name] = torch.zeros(shape)
            save_file(state, tmp_path / file)
            refused(tmp_path / file, "safetensors: ")


def test_queries_and_keys_of_other_widths_have_no_place(tmp_path: Path) -> None:
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    state = load_file(folder / "model.safetensors")
    state["layer.0.attention.k_proj.weight"] = torch.zeros(64, 32)
    save_file(state, folder / "model.safetensors")
    refused(folder, "tensors have no place here")


@pytest.mark.parametrize("build", [tiny_vit, tiny_convnext])
def test_what_is_written_is_accepted(build: Any, tmp_path: Path) -> None:
    found = describe_backbone(build())
    assert checked_settings(found["class"], json.loads(json.dumps(found["config"])), "x") == json.loads(
        json.dumps(found["config"])
    )
    assert as_metadata(description(build(), Facts(PREPROCESS)))["format"] == "pt"


VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1,
        2,
        3,
        64,
        10**6,
        10**30,
        HUGE,
        0.5,
        -1e300,
        float("inf"),
        float("nan"),
        "",
        "x",
        [],
        [1] * 4,
        {},
    ]
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.dictionaries(st.sampled_from(sorted(describe_backbone(tiny_vit())["config"])), VALUES, min_size=1, max_size=3)
)
def test_any_setting_of_any_value_is_built_or_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_backbone(tmp_path, tiny_vit(), PREPROCESS)
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(content))
    refusal = "none"
    try:
        load_backbone(tmp_path)
    except WeightsError as error:
        refusal = str(error)
    assert refusal.isprintable()
