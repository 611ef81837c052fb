from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.losses import passes
from dinov3.losses.cross_entropy import dino_cross_entropy, ibot_cross_entropy
from dinov3.losses.diagnostics import prototype_usage, target_entropy
from dinov3.losses.passes import PLAIN, Passes
from dinov3.losses.sinkhorn import sinkhorn_targets, softmax_targets

INDUCTOR = pytest.param(
    "inductor",
    marks=[
        pytest.mark.nightly,  # a minute: C++ is compiled for every pass
        pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
    ],
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture(params=["aot_eager", INDUCTOR], scope="module")
def compiled(request: pytest.FixtureRequest) -> Passes:
    torch._dynamo.reset()
    passes.compiled.cache_clear()
    return passes.compiled(request.param)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def step(form: Passes, rows: int, dtype: torch.dtype, make: Any, temperature: float = 0.07) -> dict[str, Tensor]:
    """Everything a training step asks of the losses, for ``rows`` masked patches."""
    k = 40
    student_patches = randn(rows, k, seed=0, dtype=dtype).requires_grad_()
    student_cls = randn(2, 5, k, seed=1, dtype=dtype).requires_grad_()
    student_local = randn(3, 5, k, seed=2, dtype=dtype).requires_grad_()
    patches = make(randn(rows, k, seed=3, dtype=dtype), temperature, passes=form)
    cls = make(randn(2, 5, k, seed=4, dtype=dtype), temperature, passes=form)
    weights = randn(rows, seed=5).abs()
    ibot = ibot_cross_entropy(student_patches, patches, weights, 4, passes=form)
    global_loss = dino_cross_entropy(student_cls, cls, ignore_diagonal=True, passes=form)
    local_loss = dino_cross_entropy(student_local, cls, passes=form)
    (ibot + global_loss + 2 * local_loss).backward()
    return {
        "ibot": ibot.detach(),
        "global": global_loss.detach(),
        "local": local_loss.detach(),
        "d_patches": student_patches.grad,
        "d_cls": student_cls.grad,
        "d_local": student_local.grad,
        "row": patches.row,
        "column": patches.column,
        "entropy": target_entropy(patches, form),
        "usage": prototype_usage(patches, form),
    }


DAILY = {(0, torch.float32), (7, torch.float32)}  # each number of rows is compiled for seconds
FORMS = [
    pytest.param(rows, dtype, make, marks=[] if (rows, dtype) in DAILY else [pytest.mark.nightly])
    for rows in (0, 1, 2, 7, 31)
    for dtype in (torch.float32, torch.bfloat16)
    for make in (sinkhorn_targets, softmax_targets)
]


@pytest.mark.parametrize(("rows", "dtype", "make"), FORMS)
def test_compiled_passes_agree_with_plain_ones(compiled: Passes, rows: int, dtype: torch.dtype, make: Any) -> None:
    if not rows and make is sinkhorn_targets:
        make = softmax_targets  # without a row anywhere there is nothing to balance
    expected, ours = step(PLAIN, rows, dtype, make), step(compiled, rows, dtype, make)
    for name, value in expected.items():
        tolerance = TOLERANCE[value.dtype]
        torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance * 1e-2)


def test_a_pass_is_one_graph_for_any_number_of_rows_and_any_temperature() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    form = passes._compiled(passes.softmax_column_sums, {0: 0}, counter)
    form(randn(5, 16, seed=0), 0.03, randn(16, seed=1))
    made = counter.frame_count
    for rows, temperature in ((9, 0.04), (31, 0.05), (2, 0.06), (17, 0.07)):
        logits, column = randn(rows, 16, seed=rows), randn(16, seed=1)
        torch.testing.assert_close(
            form(logits, temperature, column), passes.softmax_column_sums(logits, temperature, column)
        )
    assert counter.frame_count == made


def test_processes_without_rows_and_with_them_share_one_log_sum_exp() -> None:
    logits = randn(6, 5, seed=0)
    empty = passes.column_logsumexp(logits[:0], 0.1)
    assert empty.tolist() == [-torch.inf] * 5
    whole = passes.column_logsumexp(logits, 0.1)
    torch.testing.assert_close(whole, torch.logsumexp(logits / 0.1, 0))


def test_the_plain_form_is_what_a_machine_without_an_accelerator_gets() -> None:
    assert passes.choose(False) is PLAIN
    assert passes.choose(True) is passes.choose(True)
    assert passes.choose(True).column_logsumexp is not PLAIN.column_logsumexp
