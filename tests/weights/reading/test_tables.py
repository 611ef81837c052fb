"""The model is taken out of whatever a training program wrote around it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3.weights.files import read_weights
from dinov3.weights.layouts import read_model
from dinov3.weights.own import load_backbone, write_backbone
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.reading.tables import find_table, without_wrappers
from tests.weights.random_models import tiny_vit

A, B = torch.ones(2), torch.zeros(2)
OPTIMIZER = {"state": {0: {"exp_avg": B}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
CHECKPOINTS: dict[str, Any] = {
    "flat": {"w": A},
    "DINO": {
        "student": {"w": B},
        "teacher": {"w": A},
        "optimizer": OPTIMIZER,
        "epoch": 3,
        "args": argparse.Namespace(lr=1),
    },
    "timm": {"state_dict": {"w": B}, "state_dict_ema": {"w": A}, "optimizer": OPTIMIZER, "arch": "vit"},
    "Lightning": {
        "state_dict": {"w": A},
        "hyper_parameters": {"lr": 1e-3},
        "callbacks": {},
        "pytorch-lightning_version": "2",
    },
    "model": {"model": {"w": A}, "optimizer": OPTIMIZER, "scaler": {"scale": 1.0}},
    "model in a state_dict": {"state_dict": {"model": {"w": A}}, "epoch": 1},
    "under another name": {"my_net": {"w": A}, "epoch": 1},
    "with a tensor beside": {"model": {"w": A}, "centre": B},
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_the_model_of_a_checkpoint_is_found(case: str, tmp_path: Path) -> None:
    torch.save(CHECKPOINTS[case], tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth").tensors
    assert set(found) == {"w"}
    assert torch.equal(found["w"], A)


NONE: dict[str, tuple[Any, str]] = {
    "several": ({"net_a": {"w": A}, "net_b": {"w": B}}, "holds several tables of tensors, 'net_a', 'net_b': save one"),
    "only an optimiser": ({"optimizer": OPTIMIZER}, "holds no table of tensors, but 'optimizer'"),
    "numbers": ({"epoch": 3, "loss": 0.5}, "holds no table of tensors, but 'epoch', 'loss'"),
    "nothing": ({}, "holds no table of tensors, but nothing"),
    "a tensor alone": (A, "holds one tensor, not a table of them"),
    "a number beside tensors": ({"w": A, "epoch": 3}, "epoch is a number, and not a plain tensor"),
    "eval": ({"w": A, "x": argparse.Namespace(f=eval)}, r"asks to run .*eval"),
}


@pytest.mark.parametrize("case", NONE)
def test_a_checkpoint_without_one_model_says_what_it_holds(case: str, tmp_path: Path) -> None:
    content, words = NONE[case]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: .*{words}") as caught:
        read_weights(tmp_path / "x.pth")
    assert len(str(caught.value).splitlines()) == 1


PREFIXES = [
    "model.",
    "module.",
    "backbone.",
    "module.backbone.",
    "model.backbone.",
    "_orig_mod.module.",
    "teacher.backbone.",
    "vit.",
    "a_wrapper_of_nobody_here.backbone.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_known_prefixes_are_taken_off(prefix: str, tmp_path: Path) -> None:
    model = tiny_vit()
    state = {f"{prefix}{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "x.ckpt")
    found = read_model(tmp_path / "x.ckpt")
    assert found.backbone.keys() == model.state_dict().keys()
    write_backbone(tmp_path, model, {})
    (tmp_path / "config.json").rename(tmp_path / "x.json")
    assert torch.equal(load_backbone(tmp_path / "x.ckpt").cls_token, model.cls_token)  # type: ignore[arg-type]


def test_of_several_models_in_one_table_the_averaged_one_is_taken_and_nothing_is_mixed() -> None:
    names = [f"{m}.{p}" for m in ("student", "teacher", "model_ema") for p in ("backbone.a", "dino_head.b", "other.c")]
    assert without_wrappers({name: name for name in names}) == {
        "backbone.a": "model_ema.backbone.a",
        "dino_head.b": "model_ema.dino_head.b",
    }
    assert without_wrappers({n: n for n in names if "ema" not in n})["backbone.a"] == "teacher.backbone.a"


@pytest.mark.parametrize("extra", [{}, {"register_tokens": torch.zeros(1, 4, 64)}])
def test_weights_of_dinov2_say_that_nothing_makes_them_fit(extra: dict[str, Any], tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_vit(patch_size=14, img_size=70).state_dict().items() if "rope" not in k}
    state |= {"pos_embed": torch.zeros(1, 26, 64), **extra}
    for content in (state, {"teacher": {f"backbone.{k}": v for k, v in state.items()}}):
        torch.save(content, tmp_path / "dinov2.pth")
        with pytest.raises(WeightsError, match=r"learned position embeddings .*DINOv2.* no setting makes them fit"):
            load_backbone(tmp_path / "dinov2.pth")


def test_an_adapter_alone_says_what_is_missing(tmp_path: Path) -> None:
    names = [f"base_model.model.blocks.0.attn.qkv.lora_{x}.weight" for x in "AB"]
    torch.save({name: torch.zeros(4, 4) for name in names}, tmp_path / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"holds adapters .* merge them into their model"):
        load_backbone(tmp_path / "adapter_model.bin")


def test_the_same_table_under_many_names_is_looked_through_once() -> None:
    """Looked through under each name it would be 10^10 entries."""
    large: dict[str, Any] = {str(i): i for i in range(100_000)}
    seen: list[int] = []

    def is_tensor(value: Any) -> bool:
        seen.append(1)
        return False

    with pytest.raises(WeightsError, match="holds no table of tensors"):
        find_table({str(i): {"model": large} if i % 2 else large for i in range(1_000)}, is_tensor)
    assert len(seen) < 200_000


def test_a_name_of_wrappers_alone_is_taken_apart_a_few_times() -> None:
    name = "model." * 100_000 + "w"
    bare = name.removeprefix("model." * 6)
    assert without_wrappers({name: 1, f"{name}2": 2}) == {bare: 1, f"{bare}2": 2}
