"""What trains, with which learning rate and decay; what the head sees."""

from __future__ import annotations

import pytest
import torch

from dinov3.engine.optim import ParamGroup
from dinov3.finetune.classifier import Classifier, choose_what_trains, dihedral, groups_of, label_of
from dinov3.finetune.config import AdapterConfig, ClassifierConfig, FinetuneOptimConfig
from tests.finetune import tiny


def chosen(lora: AdapterConfig | None = None, **model: str) -> Classifier:
    classifier = Classifier(tiny.backbone(), 3, "cls")
    choose_what_trains(classifier, ClassifierConfig(**model), lora or AdapterConfig(rank=2), 0)
    return classifier


def trained(classifier: Classifier) -> set[str]:
    return {name for name, p in classifier.named_parameters() if p.requires_grad}


def test_head_only_trains_the_head_and_the_norms_and_biases_that_were_asked_for() -> None:
    head = {"head.weight", "head.bias"}
    everything = {name for name, _ in chosen(method="head_only").named_parameters()}
    norms = {name for name in everything if "norm" in name or "gamma" in name}
    biases = {name for name in everything - norms if name.endswith("bias")} - head
    assert trained(chosen(method="head_only")) == head
    assert trained(chosen(method="head_only", train_norms_bias="norms")) == head | norms
    assert trained(chosen(method="head_only", train_norms_bias="bias")) == head | biases
    assert trained(chosen(method="head_only", train_norms_bias="both")) == head | norms | biases
    assert trained(chosen(method="fullft")) == everything - {"backbone.mask_token"}


def test_lora_trains_adapters_of_every_block_and_changes_nothing_yet() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = Classifier(tiny.backbone(), 3, "cls").features(images)
    classifier = chosen(method="lora")
    names = {name.partition(".lora.")[0] for name in trained(classifier) if ".lora." in name}
    assert names == {
        f"backbone.blocks.{i}.{layer}" for i in (0, 1) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert torch.equal(classifier.features(images), plain)
    without = chosen(AdapterConfig(rank=2, targets=["q", "v"], mlp=False), method="lora")
    assert {n for n in trained(without) if ".lora." in n} == {
        f"backbone.blocks.{i}.attn.qkv.lora.{q}.{side}" for i in (0, 1) for q in "qv" for side in "ab"
    }


def test_gated_layers_get_adapters_too() -> None:
    classifier = Classifier(tiny.backbone(ffn_layer="swiglu"), 3, "cls")
    lines = choose_what_trains(classifier, ClassifierConfig(method="lora"), AdapterConfig(rslora=True), 0)
    assert "w1, w2, w3" in lines[0]
    assert "rsLoRA" in lines[0]


@pytest.mark.parametrize("method", ["lora", "fullft"])
def test_every_parameter_that_trains_is_in_one_group_and_only_matrices_decay(method: str) -> None:
    classifier = chosen(method=method, train_norms_bias="none" if method == "fullft" else "both")
    optim = FinetuneOptimConfig(lr=1e-2, backbone_lr=1e-3, lora_lr=2e-3, norms_bias_lr=5e-4, layerwise_decay=0.5)
    groups = groups_of(classifier, ClassifierConfig(method=method), optim)
    names = [name for group in groups for name in group.names]
    assert len(names) == len(set(names))
    assert set(names) == trained(classifier)
    for group in groups:
        for name, p in zip(group.names, group.params, strict=True):
            token = name.endswith(("cls_token", "storage_tokens"))
            assert (group.wd_multiplier == 0) == (p.ndim < 2 or token), name
    of = {name: group for group in groups for name in group.names}
    assert of["head.weight"].lr_multiplier == 1
    if method == "fullft":
        rates = [of[f"backbone.blocks.{i}.mlp.fc1.weight"].lr_multiplier for i in (0, 1)]
        assert rates == pytest.approx([0.1 * 0.25, 0.1 * 0.5])
        assert of["backbone.patch_embed.proj.weight"].lr_multiplier == pytest.approx(0.1 * 0.125)
    else:
        assert rate(of, "backbone.blocks.1.mlp.fc1.lora.a") == pytest.approx(0.2 * 0.5)
        assert rate(of, "backbone.blocks.1.norm1.weight") == pytest.approx(0.05 * 0.5)


def rate(of: dict[str, ParamGroup], name: str) -> float:
    return of[name].lr_multiplier


def test_the_backbone_stays_in_eval_mode_and_only_adapters_train_with_dropout() -> None:
    classifier = chosen(AdapterConfig(dropout=0.5), method="lora").train()
    assert classifier.training
    modes = {name: module.training for name, module in classifier.backbone.named_modules()}
    assert {name for name, mode in modes.items() if mode} == {
        name for name in modes if ".lora" in name and name.rpartition(".")[2] in ("q", "k", "v", "lora")
    } - {name for name in modes if name.endswith("qkv.lora")}
    assert not any(module.training for module in classifier.eval().modules())


def test_the_head_sees_what_pool_says() -> None:
    images = torch.randn(2, 3, 16, 16)
    parts = {pool: Classifier(tiny.backbone(), 3, pool).features(images) for pool in ("cls", "mean", "cls+mean")}
    assert torch.equal(parts["cls+mean"], torch.cat([parts["cls"], parts["mean"]], dim=1))
    assert not torch.equal(parts["cls"], parts["mean"])


def test_a_label_names_what_was_trained_so_that_nothing_else_is_called_a_probe() -> None:
    assert label_of(ClassifierConfig(method="head_only")) == "head"
    assert label_of(ClassifierConfig(method="head_only", train_norms_bias="both")) == "head+norms/bias"
    assert label_of(ClassifierConfig(method="lora", train_norms_bias="norms")) == "LoRA+norms"


def test_the_eight_views_are_a_group() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    views = dihedral(images)
    assert torch.equal(views[0], images)
    seen = {tuple(view.flatten().tolist()) for view in views}
    assert len(seen) == 8
    for view in views:
        assert {tuple(one.flatten().tolist()) for one in dihedral(view)} == seen
