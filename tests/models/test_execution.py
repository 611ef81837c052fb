"""The forms of a vision transformer are one function: outputs and gradients agree with the plain form."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.models.checkpointing import CheckpointMode
from dinov3.models.convnext import ConvNeXt
from dinov3.models.execution import Execution, execution_of
from dinov3.models.lora import add_lora
from dinov3.models.vit import DinoVisionTransformer

FUSED, NARROW = Execution(fused=True), Execution(narrow_residual=True)
BOTH = Execution(narrow_residual=True, fused=True, joint_draws=True)


def vit(**settings: Any) -> DinoVisionTransformer:
    given = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "layerscale_init": 0.5, "n_storage_tokens": 2}
    model = DinoVisionTransformer(**given | {"pos_embed_rope_dtype": "fp32"} | settings)
    generator = torch.Generator().manual_seed(0)
    model.init_weights(generator)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("bias", "gamma")):
                p.add_(0.3 * torch.randn(p.shape, generator=generator))  # a bias of 0 would hide a wrong fold
    return model


def run(model: DinoVisionTransformer, autocast: bool = False) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Patches and class tokens of two crop sizes, and all gradients."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, 3, 64, 64, generator=generator), torch.randn(4, 3, 32, 32, generator=generator)]
    masks = [torch.rand(3, 16, generator=generator) < 0.4, None]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = model(images, masks, is_training=True)
    sum(f.cls.float().square().sum() + (f.patches * f.patches.roll(1, -1)).float().sum() for f in outputs).backward()
    tensors = [x.detach() for f in outputs for x in (f.cls, f.patches)]
    return tensors, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(ours[0], expected[0], strict=True):
        assert (a.float() - b.float()).norm() <= tolerance * b.float().norm()
    assert ours[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        assert (ours[1][name] - grad).norm() <= tolerance * grad.norm() + 1e-6, name


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_layer_scale_changes_neither_results_nor_gradients(mode: Any, ffn: str, bias: bool) -> None:
    model = vit(ffn_layer=ffn, proj_bias=bias, ffn_bias=bias, layerscale_init=0.5)
    expected = run(model)
    model.set_execution(FUSED)
    model.set_checkpointing(mode)
    assert_close(run(model), expected, 2e-5)


def test_a_model_without_layer_scale_has_nothing_to_fold() -> None:
    model = vit(layerscale_init=None)
    expected = run(model)
    model.set_execution(FUSED)
    assert_close(run(model), expected, 0)


def test_an_adapter_keeps_its_say_in_a_folded_layer() -> None:
    model = vit()
    add_lora(model, ["proj", "fc2"], rank=2, alpha=4.0, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora.b"):
                p.normal_(generator=torch.Generator().manual_seed(4))
    expected = run(model)
    model.set_execution(FUSED)
    assert_close(run(model), expected, 2e-5)


def test_without_autocast_a_narrow_residual_is_the_plain_one() -> None:
    model = vit()
    expected = run(model)
    model.set_execution(NARROW)
    assert_close(run(model), expected, 0)


@pytest.mark.parametrize("mode", ["none", "selective"])
@pytest.mark.parametrize("execution", [NARROW, BOTH])
def test_a_narrow_residual_costs_what_bf16_rounds(mode: Any, execution: Execution) -> None:
    model = vit(drop_path_rate=0.0)
    exact = run(model)
    wide = run(model, autocast=True)
    model.set_execution(execution)
    model.set_checkpointing(mode)
    assert_close(run(model, autocast=True), exact, 0.05)
    assert_close(wide, exact, 0.05)


def test_tokens_between_blocks_have_the_format_of_matrix_products() -> None:
    for execution, dtype in ((Execution(), torch.float32), (BOTH, torch.bfloat16)):
        model = vit(drop_path_rate=0.4).train()
        seen: list[torch.dtype] = []
        model.set_execution(execution)
        for block in model.blocks:
            block.register_forward_hook(lambda _, args, out, seen=seen: seen.extend([args[0].dtype, out.dtype]))
        run(model, autocast=True)
        assert seen == [dtype] * 4


def test_drop_path_drawn_at_once_keeps_the_same_share_of_every_entry() -> None:
    model = vit(drop_path_rate=0.4, depth=3).train()
    model.set_execution(BOTH)
    rows: list[int] = []
    for block in cast(Any, model.blocks):
        block.mlp.fc1.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    run(model)
    assert rows == [math.floor(3 * 0.6) * 19 + math.floor(4 * 0.6) * 7] * 3


@pytest.mark.nightly  # tests/models/test_vit.py holds one graph daily
@pytest.mark.parametrize(("execution", "mode"), [(Execution(), "none"), (BOTH, "none"), (BOTH, "selective")])
def test_the_compiler_takes_every_form_whole(execution: Execution, mode: CheckpointMode) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model = vit(drop_path_rate=0.4).train()
    model.set_execution(execution)
    model.set_checkpointing(mode)
    expected = run(model.eval())
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model.forward, fullgraph=True, dynamic=False, backend=counter)
    model.forward = compiled  # type: ignore[method-assign]
    assert_close(run(model.eval()), expected, 2e-5)
    run(model.train())


def test_a_convnext_has_one_form() -> None:
    model = ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    model.set_execution(BOTH)
    assert not [m for m in model.modules() if "execution" in vars(m)]


@pytest.mark.parametrize(("setting", "device", "compiles", "fuses"), [
    ("auto", "cpu", True, False), ("auto", "cuda", True, True), ("auto", "cuda", False, False),
    ("always", "cpu", False, True), ("never", "cuda", True, False),
])  # fmt: skip
def test_the_form_follows_the_config_and_the_device(setting: Any, device: str, compiles: bool, fuses: bool) -> None:
    cfg = Config()
    cfg.compute_precision.fused, cfg.train.compile = setting, compiles
    on_cpu = device == "cpu"  # which keeps its tokens in fp32
    expected = Execution(narrow_residual=not on_cpu, fused=fuses, joint_draws=fuses, written_out=on_cpu)
    assert execution_of(cfg, device) == expected
    cfg.compute_precision.residual_dtype = "fp32"
    assert execution_of(cfg, device).narrow_residual is False
