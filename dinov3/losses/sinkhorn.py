"""Teacher targets: probabilities over K prototypes, by Sinkhorn-Knopp (default) or by a centred softmax.

Both have the form ``q_ij = exp(l_ij / T + row_i + column_j)``. ``Targets`` therefore carries the teacher's logits and
N + K numbers, and a loss makes the probabilities of a few rows at a time: at 10,000 masked tokens and 65,536
prototypes one fp32 matrix of them is 2.6 GB.

Sources: Cuturi, "Sinkhorn Distances" (2013); Caron et al., SwAV (2020) and DINO (2021); Zhou et al., iBOT (2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.contracts import Targets
from dinov3.distributed.collectives import all_reduce_max, all_reduce_sum
from dinov3.losses.passes import PLAIN, Passes, accumulate_dtype


@torch.no_grad()
def sinkhorn_knopp(
    logits: Tensor, temperature: float, *, n_rows: Tensor | None = None, n_iterations: int = 3
) -> Tensor:
    """The definition: scale ``exp(logits / temperature)`` until rows sum to 1 and prototypes share them equally.

    Args:
        logits: ``[N, K]``, the rows of this process; N may differ between processes and be 0.
        temperature: of the teacher, above 0.
        n_rows: rows over all processes (one element); counted when None.
        n_iterations: each divides prototypes, then rows, by their sums.

    Returns:
        ``[N, K]`` fp32. Rows sum to 1 when ``n_iterations >= 1``; prototypes only approach N / K each.
    """
    x = logits.to(accumulate_dtype(logits)) / temperature  # [N, K]
    if n_rows is None:
        n_rows = all_reduce_sum(x.new_full((), x.shape[0]))
    top = all_reduce_max(x.max() if x.numel() else x.new_full((), -torch.inf))
    q = torch.exp(x - top)  # the common factor e^top cancels in the next line
    q /= all_reduce_sum(q.sum())
    for _ in range(n_iterations):
        q /= all_reduce_sum(q.sum(0)) * q.shape[1]
        q /= q.sum(1, keepdim=True) * n_rows
    return q * n_rows


@torch.no_grad()
def sinkhorn_scales(
    logits: Tensor, temperature: float, *, n_iterations: int = 3, passes: Passes = PLAIN
) -> tuple[Tensor, Tensor]:
    """``(row [N], column [K])``, fp32, such that ``exp(logits / temperature + row + column)`` is Sinkhorn-Knopp's result.

    Dividing each row by its sum makes it a softmax of ``logits / temperature + column``; dividing each prototype by its
    sum subtracts the logarithm of that softmax's sums over the rows of all processes from ``column``. So an iteration
    reads the logits and all-reduces K numbers; the number of rows cancels, and no row or prototype underflows to 0 / 0.

    Args:
        logits: ``[N, K]``, the rows of this process; N may differ between processes and be 0.
        temperature: of the teacher, above 0.
        n_iterations: as for ``sinkhorn_knopp``, but at least 1, otherwise ValueError.
        passes: the local work, plain or compiled.
    """
    if n_iterations < 1:
        raise ValueError(f"n_iterations {n_iterations}: factorised Sinkhorn-Knopp needs at least 1")
    column = -_logsumexp_of_processes(passes.column_logsumexp(logits, temperature))  # [K]
    for _ in range(n_iterations - 1):
        sums = all_reduce_sum(passes.softmax_column_sums(logits, temperature, column))  # [K]
        sums = sums.clamp_min(torch.finfo(sums.dtype).tiny)
        column = column - torch.log(sums / sums.mean())
    return passes.negative_logsumexp(logits, temperature, column), column


def _logsumexp_of_processes(own: Tensor) -> Tensor:
    """``log sum exp`` over processes of ``own [...]``; a process without rows has -inf."""
    top = all_reduce_max(own).clamp_min(torch.finfo(own.dtype).min)  # -inf minus itself is no number
    return top + torch.log(all_reduce_sum(torch.exp(own - top)))


@torch.no_grad()
def sinkhorn_targets(logits: Tensor, temperature: float, *, n_iterations: int = 3, passes: Passes = PLAIN) -> Targets:
    """Sinkhorn-Knopp over all rows of ``logits [..., K]`` on all processes together, without forming the result."""
    logits = logits.detach()
    rows = logits.flatten(0, -2)  # [N, K]
    row, column = sinkhorn_scales(rows, temperature, n_iterations=n_iterations, passes=passes)
    return Targets(logits, temperature, row.view(logits.shape[:-1]), column)


@torch.no_grad()
def softmax_targets(
    logits: Tensor, temperature: float, center: Tensor | None = None, *, passes: Passes = PLAIN
) -> Targets:
    """``softmax((logits - center) / temperature)`` of ``logits [..., K]``, in factorised form; ``center`` has K elements."""
    logits = logits.detach()
    column = logits.new_zeros(logits.shape[-1], dtype=accumulate_dtype(logits))  # [K]
    if center is not None:
        column = column - center.detach().flatten() / temperature
    row = passes.negative_logsumexp(logits.flatten(0, -2), temperature, column)
    return Targets(logits, temperature, row.view(logits.shape[:-1]), column)


@torch.no_grad()
def softmax_center(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """``softmax((logits - center) / temperature)`` ``[..., K]`` fp32; ``center`` broadcasts to ``logits``."""
    return torch.softmax((logits.to(accumulate_dtype(logits)) - center) / temperature, dim=-1)


@torch.no_grad()
def center_update(center: Tensor, logits: Tensor, momentum: float = 0.9) -> Tensor:
    """The centre after teacher logits ``[..., K]`` were seen: it moves towards their mean over rows and processes.

    iBOT's mean over the tokens of an image, then over images, is the same number: images have equally many tokens.

    Returns:
        ``momentum * center + (1 - momentum) * mean``, a new tensor shaped like ``center``; ``center`` itself when no
        process has a row.
    """
    return center_after(center, *row_sums(logits), momentum)


@torch.no_grad()
def row_sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(sum ``[K]``, number) of the rows of ``logits [..., K]``, this process's own; both fp32."""
    rows = logits.to(accumulate_dtype(logits)).flatten(0, -2)  # [N, K]
    return rows.sum(0), rows.new_full((), rows.shape[0])


@torch.no_grad()
def center_after(center: Tensor, total: Tensor, count: Tensor, momentum: float = 0.9) -> Tensor:
    """``center_update`` for rows that each process has already summed up: ``total [K]`` of ``count`` rows."""
    count = all_reduce_sum(count)
    mean = all_reduce_sum(total).view_as(center) / count.clamp_min(1)
    return torch.where(count > 0, center * momentum + mean * (1 - momentum), center)
