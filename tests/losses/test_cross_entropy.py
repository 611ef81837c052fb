from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dinov3.losses import passes
from dinov3.losses.cross_entropy import (
    dino_cross_entropy,
    dino_cross_entropy_plain,
    ibot_cross_entropy,
    ibot_cross_entropy_plain,
)
from dinov3.losses.sinkhorn import Targets, sinkhorn_targets, softmax_targets

CROPS = [(2, 2, True), (2, 2, False), (8, 2, False), (3, 2, True), (2, 3, True), (3, 1, True), (1, 1, False)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def value_and_grad(loss: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def test_an_undecided_student_pays_log_k() -> None:
    student, teacher = torch.zeros(1, 4, 10), softmax_targets(randn(1, 4, 10), 0.05)
    assert dino_cross_entropy(student, teacher).item() == pytest.approx(math.log(10), rel=1e-6)
    one_row = Targets(teacher.logits[0], teacher.temperature, teacher.row[0], teacher.column)
    weight = torch.tensor([0.5, 0.5, 0.25, 0.25])
    assert ibot_cross_entropy(student[0], one_row, weight, n_images=3).item() == pytest.approx(1.5 * math.log(10) / 3)


def test_dino_by_hand() -> None:
    student = torch.tensor([[[0.0, 0.1 * math.log(3)]], [[0.0, 0.0]]])  # p = (1/4, 3/4), (1/2, 1/2)
    teacher = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    expected = -(math.log(3 / 4) + math.log(1 / 2)) / 2  # student 0 with teacher 1, student 1 with teacher 0
    assert dino_cross_entropy_plain(student, teacher, ignore_diagonal=True).item() == pytest.approx(expected)
    all_pairs = expected / 2 - (math.log(1 / 4) + math.log(1 / 2)) / 4
    assert dino_cross_entropy_plain(student, teacher).item() == pytest.approx(all_pairs)


@pytest.mark.parametrize(("n_student", "n_teacher", "ignore_diagonal"), CROPS)
@pytest.mark.parametrize("make", [sinkhorn_targets, softmax_targets])
def test_fused_dino_equals_plain(n_student: int, n_teacher: int, ignore_diagonal: bool, make: Any) -> None:
    student, targets = randn(n_student, 5, 33).requires_grad_(), make(randn(n_teacher, 5, 33, seed=1), 0.07)
    options: dict[str, Any] = {"student_temp": 0.2, "ignore_diagonal": ignore_diagonal}
    fused = value_and_grad(dino_cross_entropy(student, targets, **options), student)
    plain = value_and_grad(dino_cross_entropy_plain(student, targets.dense(), **options), student)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_masked", [0, 1, 9, 12])
def test_fused_ibot_equals_plain_with_padded_rows(n_masked: int) -> None:
    student, targets, weight = (
        randn(12, 33).requires_grad_(),
        softmax_targets(randn(12, 33, seed=1), 0.07),
        randn(12).abs(),
    )
    fused = value_and_grad(ibot_cross_entropy(student, targets, weight[:n_masked], 4), student)
    plain = value_and_grad(ibot_cross_entropy_plain(student, targets.dense(), weight[:n_masked], 4), student)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-7)
    assert not fused[1][n_masked:].any()


@pytest.mark.parametrize("ignore_diagonal", [False, True])
def test_the_fused_gradient_is_the_derivative(ignore_diagonal: bool) -> None:
    student, teacher = randn(3, 2, 5).double().requires_grad_(), sinkhorn_targets(randn(2, 2, 5, seed=1).double(), 0.5)
    assert torch.autograd.gradcheck(
        lambda x: dino_cross_entropy(x, teacher, 0.7, ignore_diagonal=ignore_diagonal), student
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_nothing_but_the_rounding_of_the_gradient(dtype: torch.dtype) -> None:
    student, teacher = randn(2, 6, 400).to(dtype).requires_grad_(), (randn(2, 6, 400, seed=1) * 0.3).to(dtype)
    exact = student.detach().float().requires_grad_()
    loss, grad = value_and_grad(dino_cross_entropy(student, sinkhorn_targets(teacher, 0.07)), student)
    dense = sinkhorn_targets(teacher.float(), 0.07).dense()
    expected_loss, expected_grad = value_and_grad(dino_cross_entropy_plain(exact, dense), exact)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(grad, expected_grad.to(dtype))


def test_ignored_pairs_have_no_say() -> None:
    student, teacher = randn(2, 3, 7), randn(2, 3, 7, seed=1)
    student.requires_grad_()
    before = value_and_grad(dino_cross_entropy(student, softmax_targets(teacher, 0.1), ignore_diagonal=True), student)[
        1
    ]
    teacher[0] = randn(3, 7, seed=2)
    after = value_and_grad(dino_cross_entropy(student, softmax_targets(teacher, 0.1), ignore_diagonal=True), student)[1]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_no_pair_left_is_an_error() -> None:
    student, targets = torch.zeros(1, 2, 3), softmax_targets(torch.zeros(1, 2, 3), 0.1)
    with pytest.raises(ValueError, match="no pair of crops: 1 student, 1 teacher, ignore_diagonal=True"):
        dino_cross_entropy(student, targets, ignore_diagonal=True)
    with pytest.raises(ValueError, match="no pair of crops"):
        dino_cross_entropy_plain(student, targets.dense(), ignore_diagonal=True)


def test_rows_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"student logits \(2, 3, 7\) do not match targets \(2, 1, 7\)"):
        dino_cross_entropy(randn(2, 3, 7), softmax_targets(randn(2, 1, 7), 0.1))
    with pytest.raises(ValueError, match=r"student logits \(1, 3, 7\) do not match targets \(1, 3, 8\)"):
        ibot_cross_entropy(randn(3, 7), softmax_targets(randn(3, 8), 0.1), torch.ones(3), 4)


def test_slices_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    student, targets = randn(2, 11, 20).requires_grad_(), sinkhorn_targets(randn(2, 11, 20, seed=1), 0.1)
    whole = value_and_grad(dino_cross_entropy(student, targets, ignore_diagonal=True), student)
    monkeypatch.setattr(passes, "CPU_SLICE", 3 * 40)
    torch.testing.assert_close(
        value_and_grad(dino_cross_entropy(student, targets, ignore_diagonal=True), student), whole
    )


class FreshSizes(TorchDispatchMode):
    """Remembers elements and type of every tensor that an operator allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in inputs:
            self.sizes.append((out.numel(), out.dtype))
        return out


def test_the_gradient_is_the_only_tensor_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CPU_SLICE", 4 * 100)
    student, teacher = randn(50, 100).bfloat16().requires_grad_(), randn(50, 100, seed=1).bfloat16()
    with FreshSizes() as mode:
        ibot_cross_entropy(student, sinkhorn_targets(teacher, 0.07), torch.ones(50), 4).backward()
    assert [row for row in mode.sizes if row[0] > 4 * 100] == [(50 * 100, torch.bfloat16)]


def loss_of_logits(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return dino_cross_entropy(student, sinkhorn_targets(teacher, temperature), ignore_diagonal=True)


def test_the_compiler_takes_it_whole_and_again_at_other_temperatures() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(loss_of_logits, fullgraph=True, backend=counter)
    for temperature in (0.04, 0.05, 0.06, 0.07):
        student, teacher = randn(2, 5, 16).requires_grad_(), randn(2, 5, 16, seed=1)
        expected = value_and_grad(loss_of_logits(student, teacher, temperature), student)
        torch.testing.assert_close(value_and_grad(compiled(student, teacher, temperature), student), expected)
    assert counter.frame_count == 2  # the second makes the temperature a variable


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_code_makes_no_fp32_matrix_of_all_rows() -> None:
    from torch._inductor.utils import run_and_get_code

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return ibot_cross_entropy(student, sinkhorn_targets(teacher, 0.07), torch.ones(333), 4)

    student, teacher = randn(333, 7777).bfloat16().requires_grad_(), randn(333, 7777).bfloat16()
    compiled = torch.compile(loss, fullgraph=True)
    _, sources = run_and_get_code(lambda: compiled(student, teacher).backward())
    buffers = [line for source in sources for line in source.splitlines() if "= empty_strided" in line]
    assert len(sources) == 2  # forward, backward
    assert [b for b in buffers if "333, 7777" in b and "float32" in b] == []


@pytest.mark.parametrize(("teacher_temp", "grows"), [(0.02, True), (0.03, False)])
def test_a_small_difference_grows_while_the_teacher_is_sharper_than_what_crops_share(
    teacher_temp: float, grows: bool
) -> None:
    """Near uniform outputs the gradient enlarges the student's logits if and only if ρ * 0.1 / T > 1 (TODO/prototype-start.md)."""
    shared, own, other = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    rho = 0.25  # correlation of the feature between two crops
    student, teacher = (rho**0.5 * shared + (1 - rho) ** 0.5 * noise for noise in (own, other))
    size = torch.tensor(1e-4, requires_grad=True)
    prototypes = torch.tensor([1.0, -1.0])
    targets = sinkhorn_targets(1e-4 * teacher[None, :, None] * prototypes, teacher_temp)
    dino_cross_entropy(size * student[None, :, None] * prototypes, targets, 0.1).backward()
    assert (size.grad < 0) == grows
