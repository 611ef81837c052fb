"""Files of other programs: written by a test from a random model, read back, and run by those programs themselves."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.models.backbone import Backbone
from dinov3.models.build import build_preset, describe_backbone
from dinov3.models.presets import PRESETS
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.layouts import read_model
from dinov3.weights.names import huggingface_names, timm_names
from dinov3.weights.names.translation import Untranslatable, effective, translate
from dinov3.weights.own import load_backbone
from tests.weights.random_models import tiny_convnext, tiny_preset, tiny_vit, tokens_of

IMAGE = procedural_image(3, 96, 64)


def described(model: Backbone) -> tuple[str, dict[str, Any]]:
    found = describe_backbone(model)
    return found["class"], found["config"]


def theirs(model: Backbone, layout: str) -> dict[str, Tensor]:
    return translate(layout, *described(model), dict(model.state_dict()))


def hf_folder(model: Backbone, folder: Path) -> Path:
    kind, settings = described(model)
    folder.mkdir(exist_ok=True)
    save_file(theirs(model, "Hugging Face"), folder / "model.safetensors", metadata={"format": "pt"})
    config = (
        huggingface_names.convnext_config(settings, 224)
        if kind == "ConvNeXt"
        else huggingface_names.vit_config(settings, effective(dict(model.state_dict())))
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def timm_file(model: Backbone, path: Path) -> Path:
    save_file(theirs(model, "timm"), path)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Equal tensors under equal names; the key bias does not count where a mask is on it."""
    a, b = effective(a), effective(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", PRESETS)
def test_meta_to_hf_to_timm_and_back_changes_nothing(name: str, tmp_path: Path) -> None:
    model = tiny_preset(name)
    from_hf = load_backbone(hf_folder(model, tmp_path / "hf"))
    torch.testing.assert_close(tokens_of(from_hf, IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-6)
    from_timm = load_backbone(timm_file(from_hf, tmp_path / "t.safetensors")) if _heads_known(model) else from_hf
    torch.testing.assert_close(tokens_of(from_timm, IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-6)
    for read, lost in ((from_hf, ()), (from_timm, ("mask_token",) if from_timm is not from_hf else ())):
        full = {k: v for k, v in model.state_dict().items() if not k.startswith(("local_cls_norm", *lost))}
        same({k: v for k, v in read.state_dict().items() if k not in lost}, full)


def _heads_known(model: Backbone) -> bool:
    """timm's files do not say how many heads there are; a 7B of width 256 would be read with heads of 64."""
    config = describe_backbone(model)["config"]
    return "num_heads" not in config or config["embed_dim"] // config["num_heads"] == 64


UNUSUAL = {
    "no LayerScale": {"layerscale_init": None},
    "key bias": {"mask_k_bias": False},
    "no biases": {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    "no storage tokens": {"n_storage_tokens": 0},
    "layernorm 1e-6, patch 8, 1 channel": {"norm_layer": "layernorm", "patch_size": 8, "in_chans": 1},
    "swiglu64 of an odd width": {"ffn_layer": "swiglu64", "ffn_ratio": 1.7},
    "base 50": {"pos_embed_rope_base": 50.0},
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL)
def test_every_setting_hugging_face_has_survives_the_way_there_and_back(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_vit(**changes)
    x = procedural_image(changes.get("in_chans", 3), 64, 48)
    again = load_backbone(hf_folder(model, tmp_path / "hf"))
    torch.testing.assert_close(tokens_of(again, x), tokens_of(model, x), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def auto_model() -> Any:
    prepare_torchvision()
    return pytest.importorskip("transformers").AutoModel


@pytest.mark.parametrize("changes", [{}, *UNUSUAL.values()], ids=["released", *UNUSUAL])
def test_transformers_own_model_gives_the_same_tokens(auto_model: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_vit(**changes)
    x = procedural_image(changes.get("in_chans", 3), 64, 48)
    other, info = auto_model.from_pretrained(hf_folder(model, tmp_path / "hf"), output_loading_info=True)
    assert type(other).__name__ == "DINOv3ViTModel"
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = other.eval()(x).last_hidden_state
    torch.testing.assert_close(found, tokens_of(model, x), rtol=0, atol=1e-5)


def test_transformers_own_convnext_gives_the_same_tokens(auto_model: Any, tmp_path: Path) -> None:
    model = tiny_convnext()
    other, info = auto_model.from_pretrained(hf_folder(model, tmp_path / "hf"), output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = other.eval()(IMAGE).last_hidden_state
    torch.testing.assert_close(found, tokens_of(model, IMAGE), rtol=0, atol=1e-5)


def test_a_folder_that_transformers_itself_saved_is_read(auto_model: Any, tmp_path: Path) -> None:
    model = tiny_vit()
    other = auto_model.from_pretrained(hf_folder(model, tmp_path / "hf"))
    other.save_pretrained(tmp_path / "again", max_shard_size="60KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    torch.testing.assert_close(
        tokens_of(load_backbone(tmp_path / "again"), IMAGE), tokens_of(model, IMAGE), rtol=0, atol=1e-6
    )


FOR_TIMM = {k: v for k, v in UNUSUAL.items() if k != "base 50"}


@pytest.mark.parametrize("changes", [{}, {"ffn_layer": "swiglu"}, *FOR_TIMM.values()], ids=["mlp", "swiglu", *FOR_TIMM])
def test_timms_own_model_gives_the_same_tokens(changes: dict[str, Any]) -> None:
    prepare_torchvision()
    timm = pytest.importorskip("timm")
    model = tiny_vit(**changes)
    x = procedural_image(changes.get("in_chans", 3), 64, 48)
    name, arguments = timm_names.vit_model(described(model)[1], effective(dict(model.state_dict())))
    assert (arguments.get("attn_type") == "rope") == (changes.get("mask_k_bias") is False)
    if "norm_eps" in arguments:
        arguments["norm_layer"] = partial(timm.layers.LayerNorm, eps=arguments.pop("norm_eps"))
    other = timm.create_model(name, pretrained=False, **arguments)
    other.load_state_dict(theirs(model, "timm"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(other.eval().forward_features(x), tokens_of(model, x), rtol=0, atol=1e-5)


def test_timms_own_convnext_gives_the_same_class_token() -> None:
    prepare_torchvision()
    timm = pytest.importorskip("timm")
    model = tiny_convnext()
    name, arguments = timm_names.convnext_model(described(model)[1])
    other = timm.create_model(name, pretrained=False, **arguments)
    other.load_state_dict(theirs(model, "timm"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(IMAGE), tokens_of(model, IMAGE)[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "dinov3_vitl16plus"])
def test_a_released_model_has_a_timm_name_that_needs_no_arguments(name: str) -> None:
    prepare_torchvision()
    timm = pytest.importorskip("timm")
    settings = dict(PRESETS[name])
    if "depths" in settings:
        found, arguments = timm_names.convnext_model({"in_chans": 3, **settings})
        assert arguments == {"num_classes": 0}
    else:
        full = {"qkv_bias": True, "in_chans": 3, "img_size": 224, "ffn_layer": "mlp", **settings}
        found, arguments = timm_names.vit_model(full, dict(build_preset(name, "meta").state_dict()))
        assert arguments == {}
    assert timm.is_model(found)


CANNOT = [
    ("timm", {"norm_layer": "rmsnorm"}, "timm has no words for norm_layer: rmsnorm"),
    ("timm", {"pos_embed_rope_base": 50.0}, r"no words for pos_embed_rope_base: 50\.0"),
    ("timm", {"stem": "whitened"}, "timm has no words for stem: whitened"),
    ("Hugging Face", {"norm_layer": "rmsnorm"}, "Hugging Face has no words for norm_layer: rmsnorm"),
    ("Hugging Face", {"untie_cls_and_patch_norms": True}, "no words for untie_cls_and_patch_norms"),
    ("Hugging Face", {"pos_embed_rope_normalize_coords": "max"}, "no words for pos_embed_rope_normalize_coords: max"),
]


@pytest.mark.parametrize(("layout", "changes", "message"), CANNOT)
def test_what_a_layout_cannot_say_is_refused_by_name(layout: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Untranslatable, match=message):
        theirs(tiny_vit(**changes), layout)


def test_the_layout_is_told_by_the_content_not_by_the_name(tmp_path: Path) -> None:
    vit, convnext = tiny_vit(), tiny_convnext()
    torch.save({f"module.backbone.{k}": v for k, v in vit.state_dict().items()}, tmp_path / "timm.safetensors.pth")
    torch.save(theirs(vit, "timm"), tmp_path / "meta.pth")
    timm_file(convnext, tmp_path / "hf.safetensors")
    found = [read_model(tmp_path / n).layout for n in ("timm.safetensors.pth", "meta.pth", "hf.safetensors")]
    assert found == ["Meta", "timm", "timm"]
    assert read_model(hf_folder(convnext, tmp_path / "timm")).layout == "Hugging Face"


def test_a_file_of_nobody_known_says_what_is_in_it(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"no layout known here .* has names like \['conv1.weight'\]"):
        read_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("layout", ["Hugging Face", "timm"])
def test_a_tensor_without_a_place_is_an_error_with_its_name_and_shape(layout: str, tmp_path: Path) -> None:
    tensors = theirs(tiny_vit(), layout) | {"head.fc.weight": torch.zeros(10, 64)}
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    save_file(tensors, folder / "model.safetensors")
    if layout == "timm":
        (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors have no place here: \['head.fc.weight \(10, 64\)'\]"):
        read_model(folder)


def test_half_of_the_queries_keys_and_values_is_no_weight(tmp_path: Path) -> None:
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    tensors = theirs(tiny_vit(), "Hugging Face")
    del tensors["layer.1.attention.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"2 of \d+ tensors have no place here: \['layer.1.attention.q_proj.weight"):
        read_model(folder)


CONFIGS = [
    ({"layer_norm_eps": 1e-12}, "layer_norm_eps 1e-12 is none of"),
    ({"hidden_act": "relu"}, "hidden_act 'relu', only 'gelu'"),
    ({"model_type": "dinov2"}, "model_type 'dinov2'"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_a_hugging_face_config_of_another_model_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = hf_folder(tiny_vit(), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(WeightsError, match=message):
        load_backbone(folder)
