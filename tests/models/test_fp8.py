from __future__ import annotations

import importlib.util

import pytest
import torch

from dinov3.models import fp8
from dinov3.models.vit import DinoVisionTransformer

CPU = torch.device("cpu")
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def backbone(*, masked: bool) -> DinoVisionTransformer:
    model = DinoVisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, ffn_ratio=4.0, mask_k_bias=masked, qkv_bias=True
    )
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def test_layers_are_chosen_by_name_kind_and_sides() -> None:
    names = fp8.layers_for(backbone(masked=True), "blocks")
    assert names == [f"blocks.{b}.{layer}" for b in (0, 1) for layer in ("attn.proj", "mlp.fc1", "mlp.fc2")]
    assert "blocks.0.attn.qkv" in fp8.layers_for(backbone(masked=False), "blocks")
    assert fp8.layers_for(backbone(masked=True), r"blocks\.1\..*fc1") == ["blocks.1.mlp.fc1"]
    odd = torch.nn.ModuleDict({"blocks": torch.nn.Linear(24, 64)})
    assert fp8.layers_for(odd, "blocks") == []


def test_a_machine_that_cannot_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp8.problem_with(CPU) == "cpu has no fp8"
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert fp8.problem_with(gpu) == "NVIDIA A100 has no fp8"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fp8, "find_spec", lambda name: None)
    assert fp8.problem_with(gpu) == "torchao is not installed (pip install 'dinov3[fp8]')"
    monkeypatch.setattr(fp8, "find_spec", lambda name: object())
    assert fp8.problem_with(gpu) is None


@needs_torchao
def test_converted_layers_keep_their_names_and_stay_close_forward_and_backward() -> None:
    """Emulated: rounded as a GPU would. fp8 with three bits of mantissa is good to some per cent."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain, converted = backbone(masked=True), backbone(masked=True)
    assert fp8.compute_in_fp8(converted, "blocks", emulate=True) == 6
    assert list(converted.state_dict()) == list(plain.state_dict())
    outputs = []
    for model in (plain, converted):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(images)
        out.float().square().mean().backward()
        outputs.append(out.detach().float())
    assert not torch.equal(*outputs)
    assert (outputs[0] - outputs[1]).norm() < 0.1 * outputs[0].norm()
    ours, theirs = (m.blocks[1].mlp.fc2.weight.grad for m in (converted, plain))  # type: ignore[union-attr]
    assert (ours - theirs).norm() < 0.2 * theirs.norm()
