from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.models.attention import SelfAttention
from dinov3.models.execution import Execution
from dinov3.models.packing import Sizes
from dinov3.models.rotary.embedding import RopePositionEmbedding, Rotation
from dinov3.models.rotary.turned_heads import turned_heads
from tests.kernels_for_gpus import A100, H100, compiled
from tests.models.test_execution import assert_close, run, vit

SIZES: Sizes = ((3, 6), (2, 11))


def layer(**settings: Any) -> SelfAttention:
    attention = SelfAttention(24, 3, **{"qkv_bias": True, "proj_bias": True, "mask_k_bias": False, **settings})
    generator = torch.Generator().manual_seed(0)
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.4, generator=generator)
    return attention


def rotations(dtype: str = "fp32") -> list[Rotation]:
    rope = RopePositionEmbedding(8, dtype=dtype)
    rope.init_weights()
    return [rope.rotation(2, 2, 2), rope.rotation(3, 3, 2)]


def attended(attention: SelfAttention, dtype: str) -> list[Tensor]:
    """The result and all gradients."""
    x = torch.randn(3 * 6 + 2 * 11, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    attention.zero_grad()
    y = attention(x, SIZES, rotations(dtype))
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = [x.grad, *(p.grad for p in attention.parameters())]
    return [y.detach(), *(g for g in grads if g is not None)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_attention_is_the_same_with_heads_that_are_turned_in_one_operation(dtype: str) -> None:
    attention = layer()
    expected = attended(attention, dtype)
    attention.execution = Execution(fused_rotation=True)
    ours = attended(attention, dtype)
    assert len(ours) == len(expected) == 6
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6 if dtype == "fp32" else 1e-2)


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_backbone_is_the_same_with_them_in_every_mode_of_checkpointing(mode: Any, autocast: bool) -> None:
    model = vit()
    expected = run(model, autocast)
    model.set_execution(Execution(fused_rotation=True))
    model.set_checkpointing(mode)
    assert_close(run(model, autocast), expected, 2e-2 if autocast else 2e-5)


@pytest.mark.parametrize("n", [0, 2])
def test_the_operation_keeps_what_torch_asks_of_one(n: int) -> None:
    cos, sin = torch.rand(5, 8), torch.rand(5, 8)
    for dtype in (torch.float32, torch.bfloat16):
        qkv = torch.randn(n, 5, 3 * 16, dtype=dtype).requires_grad_()
        torch.library.opcheck(turned_heads, (qkv, cos, sin, 2))
    if n:
        exact = torch.randn(n, 5, 3 * 16, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: turned_heads(x, cos.double(), sin.double(), 2), (exact,))


def test_it_is_used_in_training_only_and_keeps_nothing_of_the_projection() -> None:
    attention = layer()
    attention.execution = Execution(fused_rotation=True)
    qkv, rotation = torch.randn(3, 6, 72).requires_grad_(), rotations()[0]
    q, _, v = attention.heads(qkv * 1, rotation)
    assert "turned_heads" in str(q.grad_fn.next_functions[0][0])  # type: ignore[union-attr]
    saved = q.grad_fn.next_functions[0][0].saved_tensors  # type: ignore[union-attr]
    assert all(s.shape == rotation.cos.shape for s in saved)
    with torch.no_grad():
        seen = attention.heads(qkv, rotation)[2]
    assert seen.data_ptr() == qkv[..., 48:].data_ptr(), "values are a view where nothing is trained"
    assert torch.equal(seen, v)


def test_a_compiled_block_has_them_as_one_operation_each_way() -> None:
    graphs: list[str] = []

    def note(graph: Any, _: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    attention = layer()
    attention.execution = Execution(fused_rotation=True)
    x = torch.randn(3 * 6 + 2 * 11, 24).requires_grad_()
    expected = attention(x, SIZES, rotations())
    torch._dynamo.reset()
    found = torch.compile(attention, backend=note, fullgraph=True)(x, SIZES, rotations())
    assert torch.allclose(found, expected, atol=1e-6)
    assert [code.count("ops.dinov3.turned_heads") for code in graphs] == [len(SIZES)]


@pytest.fixture(scope="module")
def interpreted() -> dict[str, list[float]]:
    """What ``heads_interpreted.py`` found: largest differences of the kernels from the operators."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton interprets the kernels: pip install '.[nightly]'")
    command = [sys.executable, "-m", "tests.models.rotary.heads_interpreted"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


@pytest.mark.nightly
def test_the_kernels_do_what_the_operators_do(interpreted: dict[str, list[float]]) -> None:
    assert {"fp32", "bf16", "bf16 tables", "half of 6", "nothing", "strided gradients"} <= interpreted.keys()
    for name, (q, k, v, gradient) in interpreted.items():
        limit = 2e-2 if "bf16" in name else 1e-6
        assert max(q, k, gradient) <= limit, name
        assert v == 0, name


@pytest.mark.nightly
@pytest.mark.parametrize("capability", [A100, H100])
def test_the_kernels_compile_for_gpus_and_read_and_write_16_bytes_at_once(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="pip install '.[nightly]'")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dinov3.models.rotary import turned_heads_kernels

    cos = torch.empty(261, 64, device="meta")
    qkv = torch.empty(256, 261, 3 * 768, dtype=torch.bfloat16, device="meta")
    given = torch.empty(256, 261, 12, 64, dtype=torch.bfloat16, device="meta")
    with compiled(turned_heads_kernels, ["_forward", "_backward"], capability) as kernels:
        turned_heads_kernels.turn(qkv, cos, cos, 12)
        turned_heads_kernels.turn_back(given, given, given, cos, cos)
    for kernel in kernels.values():
        (listing,) = kernel.ptx
        for access in ("ld.global", "st.global"):
            assert listing.count(access) == listing.count(f"{access}.v4.b32") > 0
