"""Adapters in peft's two files: out, in, and refused as a whole when one key does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinov3.models.lora import add_lora
from dinov3.weights.adapter_files import CONFIG, TENSORS, merged_backbone, read_adapters, write_adapters
from dinov3.weights.files import WeightsError
from dinov3.weights.parity import tokens_of
from tests.compress.models import images, vit

PLAIN, GATED = ["q", "v", "proj", "fc1", "fc2"], ["q", "k", "v", "w1", "w2", "w3"]


def adapted(targets: list[str], rslora: bool = False, **settings: Any) -> Any:
    model = vit(**settings)
    add_lora(model, targets, 3, 6.0, torch.Generator().manual_seed(1), rslora=rslora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".b"):
                parameter.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("ffn_layer", "targets"), [("mlp", PLAIN), ("swiglu", GATED)])
def test_they_come_back_bit_for_bit(ffn_layer: str, targets: list[str], rslora: bool, tmp_path: Path) -> None:
    model = adapted(targets, rslora, ffn_layer=ffn_layer)
    write_adapters(model, tmp_path, base="some/base")
    again = vit(ffn_layer=ffn_layer)
    trained = read_adapters(again, tmp_path)
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert torch.equal(tokens_of(again, images(2)), tokens_of(model, images(2)))
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == "some/base"
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, TENSORS]


def test_the_keys_are_those_that_peft_writes_for_transformers_5(tmp_path: Path) -> None:
    """Recorded from peft 0.21 on a DINOv3ViTModel of transformers 5.24."""
    write_adapters(adapted(["k", "proj", "fc2"], depth=1), tmp_path)
    stem = "base_model.model.model.layer.0"
    shapes = {key: tuple(value.shape) for key, value in load_file(tmp_path / TENSORS).items()}
    assert shapes == {
        f"{stem}.attention.k_proj.lora_A.weight": (3, 32),
        f"{stem}.attention.k_proj.lora_B.weight": (32, 3),
        f"{stem}.attention.o_proj.lora_A.weight": (3, 32),
        f"{stem}.attention.o_proj.lora_B.weight": (32, 3),
        f"{stem}.mlp.down_proj.lora_A.weight": (3, 64),
        f"{stem}.mlp.down_proj.lora_B.weight": (32, 3),
    }
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    assert config["target_modules"] == ["down_proj", "k_proj", "o_proj"]


def test_names_of_transformers_4_are_read_too(tmp_path: Path) -> None:
    model = adapted(PLAIN)
    write_adapters(model, tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    save_file({k.replace("model.model.layer", "model.layer"): v for k, v in tensors.items()}, tmp_path / TENSORS)
    again = vit()
    read_adapters(again, tmp_path)
    assert torch.equal(tokens_of(again, images(2)), tokens_of(model, images(2)))


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def drop(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.model.layer.1.mlp.up_proj.lora_B.weight"]


def add(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.classifier.lora_A.weight"] = torch.zeros(3, 32)


def deeper(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layer.9.mlp.up_proj.lora_A.weight"] = torch.zeros(3, 32)


def widen(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layer.0.attention.q_proj.lora_A.weight"] = torch.zeros(3, 48)


def setting(key: str, value: Any) -> Change:
    def change(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        config[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (drop, r"1 missing \['block 1 fc1 B'\]"),
        (add, r"1 without a place \['base_model\.model\.classifier"),
        (deeper, "1 without a place"),
        (widen, r"1 of another shape .*\(3, 48\), here \(3, 32\)"),
        (setting("r", 4), "of another shape"),
        (setting("r", 0), "r 0: a number from 1 up"),
        (setting("r", "3"), "r '3'"),
        (setting("lora_alpha", None), "lora_alpha None"),
        (setting("lora_dropout", 1.0), "lora_dropout 1.0: below 1"),
        (setting("use_dora", True), "use_dora True: only plain LoRA"),
        (setting("rank_pattern", {"q_proj": 2}), "only plain LoRA"),
        (setting("modules_to_save", ["head"]), "only plain LoRA"),
        (setting("peft_type", "IA3"), "peft_type 'IA3'"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_backbone_stays_as_it_was(
    change: Change, text: str, tmp_path: Path
) -> None:
    write_adapters(adapted(PLAIN), tmp_path)
    config, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / TENSORS)
    change(config, tensors)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file(tensors, tmp_path / TENSORS)
    model = vit()
    with pytest.raises(WeightsError, match=text):
        read_adapters(model, tmp_path)
    assert all(p.requires_grad for p in model.parameters())
    assert not [name for name, _ in model.named_modules() if name.endswith("lora")]


def test_adapters_of_another_backbone_are_refused(tmp_path: Path) -> None:
    write_adapters(adapted(PLAIN), tmp_path)
    for other in (vit(embed_dim=48), vit(depth=3), vit(ffn_layer="swiglu")):
        with pytest.raises(WeightsError, match="does not fit this backbone"):
            read_adapters(other, tmp_path)


def test_a_fused_adapter_has_no_name_in_peft(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="train q, k and v"):
        write_adapters(adapted(["qkv"]), tmp_path)
    with pytest.raises(WeightsError, match="no LoRA adapters"):
        write_adapters(vit(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_merged_backbone_is_plain_and_computes_the_same() -> None:
    model = adapted(PLAIN)
    plain = merged_backbone(model)
    assert plain.state_dict().keys() == vit().state_dict().keys()
    off = tokens_of(plain, images(2)) - tokens_of(model, images(2))
    assert float(off.norm() / tokens_of(model, images(2)).norm()) < 1e-5


def test_peft_computes_with_our_files_what_we_do(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from dinov3.data.torchvision_compat import prepare_torchvision
    from dinov3.weights.export import export
    from dinov3.weights.own import write_backbone

    prepare_torchvision()
    import transformers

    (tmp_path / "w").mkdir()
    settings = {"norm_layer": "layernormbf16"}
    write_backbone(tmp_path / "w", vit(**settings), {"mean": [0.5] * 3, "std": [0.2] * 3})
    export(tmp_path / "w", tmp_path / "hf", layout="hf")
    model = adapted(PLAIN, **settings)
    write_adapters(model, tmp_path / "adapters")
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModel.from_pretrained(tmp_path / "hf"), tmp_path / "adapters"
    )
    with torch.no_grad():
        tokens = theirs.eval()(pixel_values=images(2)).last_hidden_state
    assert float((tokens - tokens_of(model, images(2))).norm() / tokens.norm()) < 1e-5
