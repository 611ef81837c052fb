from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinov3.losses import passes
from dinov3.losses.sinkhorn import (
    center_update,
    sinkhorn_knopp,
    sinkhorn_scales,
    sinkhorn_targets,
    softmax_center,
    softmax_targets,
)
from tests.distributed.processes import run_processes


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(logits: Tensor, temperature: float, n_iterations: int) -> list[list[float]]:
    """Sinkhorn-Knopp in Python floats, one entry after the other."""
    q = [[math.exp(x / temperature) for x in row] for row in logits.tolist()]
    n, k = len(q), len(q[0])
    for _ in range(n_iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] /= total * k
        for i in range(n):
            total = sum(q[i])
            q[i] = [x / total for x in q[i]]
    return q


@pytest.mark.parametrize("n_iterations", [1, 3])
def test_both_forms_agree_with_the_definition_in_loops(n_iterations: int) -> None:
    logits = randn(5, 7) * 0.3
    expected = torch.tensor(by_loops(logits, 0.07, n_iterations))
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.07, n_iterations=n_iterations), expected, rtol=1e-5, atol=1e-8)
    factorised = sinkhorn_targets(logits, 0.07, n_iterations=n_iterations).dense()
    torch.testing.assert_close(factorised, expected, rtol=1e-5, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), k=st.integers(1, 12), temp=st.floats(0.03, 1), n_iterations=st.integers(1, 5))
def test_the_factorised_form_equals_the_plain_one(n: int, k: int, temp: float, n_iterations: int) -> None:
    logits = randn(n, k, seed=n * 100 + k).double()
    plain = sinkhorn_knopp(logits, temp, n_iterations=n_iterations)
    torch.testing.assert_close(sinkhorn_targets(logits, temp, n_iterations=n_iterations).dense(), plain)


def test_rows_sum_to_one_and_prototypes_share_them_equally_in_the_limit() -> None:
    logits = randn(12, 5) * 0.3
    q = sinkhorn_targets(logits, 0.07, n_iterations=200).dense()
    torch.testing.assert_close(q.sum(1), torch.ones(12))
    torch.testing.assert_close(q.sum(0), torch.full((5,), 12 / 5))


def test_the_number_of_rows_cancels_after_an_iteration() -> None:
    logits = randn(6, 4)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.1, n_rows=torch.tensor([99])), sinkhorn_knopp(logits, 0.1))


def test_without_an_iteration_the_whole_sums_to_the_rows_and_nothing_can_be_factorised() -> None:
    logits = randn(6, 4)
    assert sinkhorn_knopp(logits, 0.1, n_iterations=0).sum() == pytest.approx(6)
    with pytest.raises(ValueError, match="n_iterations 0"):
        sinkhorn_scales(logits, 0.1, n_iterations=0)


def test_far_away_rows_and_unloved_prototypes_stay_finite() -> None:
    logits = randn(6, 5)
    logits[0] -= 1000  # exp underflows for the whole row
    logits[:, 1] -= 1000  # and for the whole prototype
    q = sinkhorn_targets(logits, 0.04).dense()
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(6))


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    logits = randn(6, 8).double()
    moved = sinkhorn_targets(logits + 50, 0.05).dense()
    torch.testing.assert_close(moved, sinkhorn_targets(logits, 0.05).dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(dtype: torch.dtype) -> None:
    logits = (randn(40, 300) * 0.3).to(dtype)
    targets = sinkhorn_targets(logits, 0.07)
    assert targets.logits.dtype == dtype
    assert targets.dense().dtype == targets.row.dtype == targets.column.dtype == torch.float32
    torch.testing.assert_close(targets.dense(), sinkhorn_knopp(logits.float(), 0.07), rtol=1e-4, atol=1e-8)


def test_slices_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = randn(23, 10)
    whole = sinkhorn_targets(logits, 0.1)
    monkeypatch.setattr(passes, "CPU_SLICE", 40)
    sliced = sinkhorn_targets(logits, 0.1)
    assert len(passes.row_slices(23, 10, logits.device)) == 6
    torch.testing.assert_close(sliced.dense(), whole.dense())


def test_targets_share_the_logits_and_carry_no_gradient() -> None:
    logits = randn(2, 3, 4).requires_grad_()
    for targets in (sinkhorn_targets(logits, 0.1), softmax_targets(logits, 0.1)):
        assert targets.logits.data_ptr() == logits.data_ptr()
        assert not targets.dense().requires_grad
        assert targets.row.shape == (2, 3)
        assert targets.column.shape == (4,)


def test_no_row_at_all_is_no_error() -> None:
    empty = torch.zeros(0, 4)
    assert sinkhorn_knopp(empty, 0.1).shape == sinkhorn_targets(empty, 0.1).dense().shape == (0, 4)
    assert softmax_targets(empty, 0.1).dense().shape == (0, 4)


def test_crops_are_balanced_together() -> None:
    logits = randn(2, 3, 5)
    together = sinkhorn_targets(logits, 0.1).dense()
    torch.testing.assert_close(together, sinkhorn_targets(logits.flatten(0, 1), 0.1).dense().view(2, 3, 5))
    assert not torch.allclose(together[0], sinkhorn_targets(logits[0], 0.1).dense())


def test_softmax_targets_are_the_centred_softmax() -> None:
    logits, center = randn(2, 3, 5), randn(1, 5, seed=1)
    by_hand = torch.softmax((logits - center) / 0.07, dim=-1)
    torch.testing.assert_close(softmax_center(logits, center, 0.07), by_hand)
    torch.testing.assert_close(softmax_targets(logits, 0.07, center).dense(), by_hand)
    torch.testing.assert_close(softmax_targets(logits, 0.07).dense(), torch.softmax(logits / 0.07, dim=-1))


def test_the_centre_moves_a_tenth_of_the_way_to_the_mean() -> None:
    center, logits = torch.tensor([[1.0, 2.0]]), torch.tensor([[[11.0, 0.0]], [[31.0, 4.0]]])
    moved = center_update(center, logits)
    torch.testing.assert_close(moved, torch.tensor([[3.0, 2.0]]))  # mean (21, 2)
    assert center.tolist() == [[1.0, 2.0]]


def test_the_centre_stays_when_nobody_saw_a_row() -> None:
    center = randn(1, 1, 4)
    assert torch.equal(center_update(center, torch.zeros(0, 4)), center)


ROWS = {"unequal": (7, 2), "one empty": (5, 0)}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    out = {}
    for name, counts in ROWS.items():
        logits = randn(sum(counts), 6).split(counts)[rank]
        out[name] = {
            "plain": sinkhorn_knopp(logits, 0.1),
            "factorised": sinkhorn_targets(logits, 0.1).dense(),
            "center": center_update(torch.zeros(1, 6), logits),
        }
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_unequal_rows_equal_one_with_all_rows(tmp_path: Path) -> None:
    run_processes(_worker, (str(tmp_path),), 2)
    ours = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, counts in ROWS.items():
        logits = randn(sum(counts), 6)
        expected = sinkhorn_knopp(logits, 0.1)
        for form in ("plain", "factorised"):
            torch.testing.assert_close(torch.cat([o[name][form] for o in ours]), expected)
        for o in ours:
            torch.testing.assert_close(o[name]["center"], 0.1 * logits.mean(0, keepdim=True))
