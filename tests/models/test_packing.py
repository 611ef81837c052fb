from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.models.packing import Kept, Sizes, pack, unpack

CPU = torch.device("cpu")
sizes_of_lists = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=3).map(tuple)


def matrix(sizes: Sizes, seed: int = 0) -> torch.Tensor:
    rows = sum(n * t for n, t in sizes)
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(sizes=sizes_of_lists)
def test_unpack_undoes_pack(sizes: Sizes) -> None:
    entries = [torch.randn(n, t, 3) for n, t in sizes]
    restored = unpack(pack(entries), sizes)
    assert all(torch.equal(a, b) for a, b in zip(entries, restored, strict=True))


@settings(max_examples=30, deadline=None)
@given(sizes=sizes_of_lists, rate=st.floats(0.01, 0.99))
def test_kept_rows_are_whole_samples_each_once(sizes: Sizes, rate: float) -> None:
    kept = Kept(sizes, rate, CPU)
    owner = pack([torch.full((n, t, 1), float(i)) for i, (n, t) in enumerate(sizes)]).flatten()
    sample = torch.cat([torch.arange(n).repeat_interleave(t) for n, t in sizes])
    start = 0
    for entry, ((n, t), (count, length)) in enumerate(zip(sizes, kept.sizes, strict=True)):
        assert (count, length) == (max(int(n * (1 - rate)), 1), t)
        rows = kept.rows[start : start + count * t]
        assert (owner[rows] == entry).all()
        assert (sample[rows].view(count, t) == sample[rows].view(count, t)[:, :1]).all()
        assert len(rows.unique()) == count * t
        start += count * t
    assert start == len(kept.rows)


def test_take_and_add_equal_a_loop_over_samples() -> None:
    sizes, rate, gamma = ((4, 2), (5, 3)), 0.4, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.manual_seed(0)
    kept = Kept(sizes, rate, CPU)
    x = matrix(sizes)
    out = kept.add(x, kept.take(x) ** 2, gamma)
    expected, start = x.clone(), 0
    for (n, t), (count, _) in zip(sizes, kept.sizes, strict=True):
        for row in kept.rows[start : start + count * t].tolist():
            expected[row] += x[row] ** 2 * gamma * n / count
        start += count * t
    assert torch.allclose(out, expected)


def test_gradients_flow_through_both_the_skip_and_the_branch() -> None:
    sizes = ((3, 2), (2, 1))
    torch.manual_seed(0)
    kept = Kept(sizes, 0.5, CPU)
    gamma = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def branch(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return kept.add(x, kept.take(x).sin(), gamma)

    assert torch.autograd.gradcheck(branch, (matrix(sizes).requires_grad_(), gamma))


def test_a_branch_counts_fully_on_average() -> None:
    sizes = ((5, 1),)
    torch.manual_seed(0)
    total = torch.zeros(5, 1)
    for _ in range(2000):
        kept = Kept(sizes, 0.5, CPU)  # 2 of 5 samples, scaled by 5/2
        total += kept.add(torch.zeros(5, 1), torch.ones(2, 1), None)
    assert torch.allclose(
        total / 2000, torch.ones(5, 1), atol=0.15
    )  # 5 sigma: a mean of 0 or 2.5, sd 1.22 / sqrt(2000)


def test_an_empty_entry_stays_empty() -> None:
    kept = Kept(((2, 3), (0, 2)), 0.5, CPU)
    assert kept.sizes == ((1, 3), (0, 2))
    assert kept.add(torch.zeros(6, 1), torch.ones(3, 1), None).sum() == 6  # one sample of 3 tokens, scaled by 2
