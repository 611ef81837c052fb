"""The local work of the prototype losses: passes over ``[N, K]`` logits, functions of tensors without collectives.

Each function has two forms with the same source. The plain one works on a few rows at a time, so that its temporaries
stay small. The compiled one is the same function under ``torch.compile``, which fuses a whole pass and makes no
temporary: at ViT-B, batch 128, M = 9,831 and K = 65,536 the plain operators move 231 GB a step
(``benchmarks/bytes_moved.py`` counts both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

# fp32 elements of one temporary. CPU: 2 MB, larger ones are no faster. Accelerator without a compiler: 256 MB.
CPU_SLICE, ACCELERATOR_SLICE = 1 << 19, 1 << 26

Number = float | Tensor  # a temperature: compiled functions get a tensor, since they would be made anew for a number
Result = TypeVar("Result")


def row_slices(n_rows: int, elements_per_row: int, device: torch.device) -> list[slice]:
    """Slices that cover ``n_rows`` rows, small enough for the temporaries of one slice to stay in cache.

    ``torch.compile`` fuses a whole pass and makes no temporary, so it gets one slice.
    """
    if torch.compiler.is_compiling():
        return [slice(0, n_rows)]
    budget = CPU_SLICE if device.type == "cpu" else ACCELERATOR_SLICE
    step = max(1, budget // elements_per_row)
    return [slice(i, min(i + step, n_rows)) for i in range(0, n_rows, step)]


def accumulate_dtype(logits: Tensor) -> torch.dtype:
    """fp32 for bf16, fp16 and fp32 logits; fp64 stays fp64."""
    return torch.promote_types(logits.dtype, torch.float32)


def probabilities(logits: Tensor, temperature: Number, row: Tensor, column: Tensor) -> Tensor:
    """``exp(logits / temperature + row + column)`` ``[..., K]`` in fp32, of ``row [...]`` and ``column [K]``."""
    return (_scaled(logits, temperature, column) + row[..., None]).exp_()


def _scaled(logits: Tensor, temperature: Number, column: Tensor) -> Tensor:
    return logits.to(accumulate_dtype(logits)) / temperature + column  # [..., K]


def column_logsumexp(logits: Tensor, temperature: Number) -> Tensor:
    """``logsumexp_i(logits / temperature)``, -inf without rows. ``[N, K] -> [K]``"""
    dtype, n_columns = accumulate_dtype(logits), logits.shape[1]
    slices = row_slices(logits.shape[0], n_columns, logits.device)
    top = logits.new_full((n_columns,), torch.finfo(logits.dtype).min)
    for rows in slices:
        top = torch.maximum(top, logits[rows].amax(0))
    top = top.to(dtype) / temperature  # [K]
    sums = torch.zeros_like(top)
    for rows in slices:
        sums += _scaled(logits[rows], temperature, -top).exp_().sum(0)
    return top + torch.log(sums)


def softmax_column_sums(logits: Tensor, temperature: Number, column: Tensor) -> Tensor:
    """Sums over rows of ``softmax_j(logits / temperature + column)``: one Sinkhorn-Knopp iteration. ``[N, K] -> [K]``"""
    sums = torch.zeros_like(column)
    for rows in row_slices(logits.shape[0], logits.shape[1], logits.device):
        sums += torch.log_softmax(_scaled(logits[rows], temperature, column), dim=-1).exp_().sum(0)
    return sums


def negative_logsumexp(logits: Tensor, temperature: Number, column: Tensor) -> Tensor:
    """``-logsumexp_j(logits / temperature + column)``, what normalises each row. ``[N, K] -> [N]``"""
    row = column.new_empty(logits.shape[0])
    for rows in row_slices(logits.shape[0], logits.shape[1], logits.device):
        row[rows] = -torch.logsumexp(_scaled(logits[rows], temperature, column), dim=-1)
    return row


def soft_cross_entropy(
    student: Tensor,  # [S, N, K]
    teacher: Tensor,  # [T, N, K]
    row: Tensor,  # [T, N]
    column: Tensor,  # [K]
    teacher_temp: Number,
    student_temp: Number,
    ignore_diagonal: bool,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each student row against the sum of its teacher rows, and its log-sum-exp; ``[S, N]`` both."""
    n_student, n_rows, n_columns = student.shape
    dtype = accumulate_dtype(student)
    out = student.new_empty((n_student, n_rows), dtype=dtype)
    lse = torch.empty_like(out)
    for rows in row_slices(n_rows, max(n_student, teacher.shape[0]) * n_columns, student.device):
        x = student[:, rows].to(dtype) / student_temp  # [S, n, K]
        q = probabilities(teacher[:, rows], teacher_temp, row[:, rows], column)  # [T, n, K]
        lse[:, rows] = torch.logsumexp(x, dim=-1)
        log_p = x.sub_(lse[:, rows, None])
        out[:, rows] = -(log_p * _paired(q, n_student, ignore_diagonal)).sum(-1)
    return out, lse


def soft_cross_entropy_gradient(
    student: Tensor,  # [S, N, K]
    teacher: Tensor,  # [T, N, K]
    row: Tensor,  # [T, N]
    column: Tensor,  # [K]
    lse: Tensor,  # [S, N]
    scale: Tensor,  # [S, N] gradient of each row's loss / student_temp
    teacher_temp: Number,
    student_temp: Number,
    ignore_diagonal: bool,
) -> Tensor:
    """``scale * (mass * softmax - q)``, q the sum of the paired teacher rows; like ``student``."""
    n_student, n_rows, n_columns = student.shape
    grad = torch.empty_like(student)
    for rows in row_slices(n_rows, max(n_student, teacher.shape[0]) * n_columns, student.device):
        q = probabilities(teacher[:, rows], teacher_temp, row[:, rows], column)  # [T, n, K]
        paired = _paired(q, n_student, ignore_diagonal)  # [S or 1, n, K]
        p = (student[:, rows].to(lse.dtype) / student_temp).sub_(lse[:, rows, None]).exp_()  # [S, n, K]
        p.mul_(paired.sum(-1, keepdim=True)).sub_(paired).mul_(scale[:, rows, None])
        grad[:, rows] = p
    return grad


def _paired(q: Tensor, n_student: int, ignore_diagonal: bool) -> Tensor:
    """Sum of the teacher crops each student crop is compared with. ``[T, n, K] -> [S, n, K]``, S = 1 if all the same"""
    if not ignore_diagonal:
        return q if q.shape[0] == 1 else q.sum(0, keepdim=True)
    teachers = range(q.shape[0])
    return torch.stack([sum((q[t] for t in teachers if t != s), torch.zeros_like(q[0])) for s in range(n_student)])


def entropy_sum(logits: Tensor, temperature: Number, row: Tensor, column: Tensor) -> Tensor:
    """Sum over rows of the entropy in nats. ``[N, K], [N], [K] -> []``"""
    total = row.new_zeros(())
    for rows in row_slices(logits.shape[0], logits.shape[1], logits.device):
        share = probabilities(logits[rows], temperature, row[rows], column)  # [n, K]
        total += torch.special.entr(share).sum()
    return total


def most_probable(logits: Tensor, temperature: Number, column: Tensor) -> Tensor:
    """The most probable prototype of each row. ``[N, K] -> [N]`` int64"""
    slices = row_slices(logits.shape[0], logits.shape[1], logits.device)
    return torch.cat([_scaled(logits[rows], temperature, column).argmax(-1) for rows in slices])


@dataclass(frozen=True)
class Passes:
    """One form of each function above."""

    column_logsumexp: Callable[[Tensor, Number], Tensor] = column_logsumexp
    softmax_column_sums: Callable[[Tensor, Number, Tensor], Tensor] = softmax_column_sums
    negative_logsumexp: Callable[[Tensor, Number, Tensor], Tensor] = negative_logsumexp
    soft_cross_entropy: Callable[..., tuple[Tensor, Tensor]] = soft_cross_entropy
    soft_cross_entropy_gradient: Callable[..., Tensor] = soft_cross_entropy_gradient
    entropy_sum: Callable[[Tensor, Number, Tensor, Tensor], Tensor] = entropy_sum
    most_probable: Callable[[Tensor, Number, Tensor], Tensor] = most_probable


PLAIN = Passes()


@cache
def compiled(backend: str = "inductor") -> Passes:
    """The same functions, each one graph. They are made at their first call, for any number of rows from 2 on."""

    def form(plain: Callable[..., Result], rows_at: dict[int, int]) -> Callable[..., Result]:
        return _compiled(plain, rows_at, backend)

    return Passes(
        column_logsumexp=form(column_logsumexp, {0: 0}),
        softmax_column_sums=form(softmax_column_sums, {0: 0}),
        negative_logsumexp=form(negative_logsumexp, {0: 0}),
        soft_cross_entropy=form(soft_cross_entropy, {0: 1, 1: 1, 2: 1}),
        soft_cross_entropy_gradient=form(soft_cross_entropy_gradient, {0: 1, 1: 1, 2: 1, 4: 1, 5: 1}),
        entropy_sum=form(entropy_sum, {0: 0, 2: 0}),
        most_probable=form(most_probable, {0: 0}),
    )


def choose(fused: bool) -> Passes:
    """The compiled passes when ``compute_precision.fused`` says so on this machine, else the plain ones."""
    return compiled() if fused else PLAIN


def _compiled(
    plain: Callable[..., Result], rows_at: dict[int, int], backend: str | Callable[..., Any]
) -> Callable[..., Result]:
    """``rows_at``: the dimension that counts rows, by the number of the argument; it differs from step to step."""
    whole: Callable[..., Result] = torch.compile(plain, fullgraph=True, backend=backend)

    def run(*arguments: Any) -> Result:
        if arguments[0].shape[rows_at[0]] < 2 or torch.compiler.is_compiling():  # 0 and 1 would be graphs of their own
            return plain(*arguments)
        given = [torch.tensor(a, dtype=torch.float64) if isinstance(a, float) else a for a in arguments]
        for number, dim in rows_at.items():
            torch._dynamo.maybe_mark_dynamic(given[number], dim)
        return whole(*given)

    return run
