"""The passes of the prototype losses without their work: results of the right shape.

None of them multiplies matrices, none keeps more than its result, and their slices would be 1,200 operators for every pass
over 9,831 rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dinov3.losses.passes import Number, Passes, accumulate_dtype


def _columns(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape[1], dtype=accumulate_dtype(logits))  # [K]


def _rows(logits: Tensor, temperature: Number, column: Tensor) -> Tensor:
    return column.new_empty(logits.shape[0])  # [N]


def _cross_entropy(student: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape, dtype = student.shape[:2], accumulate_dtype(student)
    return student.new_empty(shape, dtype=dtype), student.new_empty(shape, dtype=dtype)  # [S, N] both


def _gradient(student: Tensor, *_: Any) -> Tensor:
    return student.new_empty(student.shape)


def _scalar(logits: Tensor, temperature: Number, row: Tensor, column: Tensor) -> Tensor:
    return row.new_empty(())


OUTLINES = Passes(
    column_logsumexp=_columns,
    softmax_column_sums=_columns,
    negative_logsumexp=_rows,
    soft_cross_entropy=_cross_entropy,
    soft_cross_entropy_gradient=_gradient,
    entropy_sum=_scalar,
    most_probable=lambda logits, temperature, column: _rows(logits, temperature, column).long(),
)
