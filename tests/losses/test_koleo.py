from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinov3.losses.koleo import koleo, koleo_distributed
from tests.distributed.processes import run_processes


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_loops(features: Tensor, topk: int = 1) -> float:
    """Minus the mean log distance to the ``topk`` rows with the largest cosine, without any epsilon."""
    rows = [row / row.norm() for row in features.double()]
    logs = []
    for i, row in enumerate(rows):
        others = sorted((other for j, other in enumerate(rows) if j != i), key=lambda o: -float(row @ o))
        logs += [float((row - other).norm().log()) for other in others[:topk]]
    return -sum(logs) / len(logs)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), d=st.integers(2, 9), seed=st.integers(0, 99))
def test_koleo_is_minus_the_mean_log_distance_to_the_nearest(n: int, d: int, seed: int) -> None:
    features = randn(n, d, seed=seed)
    assert koleo(features).item() == pytest.approx(by_loops(features), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("loss", [koleo, koleo_distributed])
@pytest.mark.parametrize("d", [1, 4, 64])
def test_equal_features_are_as_far_apart_as_the_epsilon_says(loss: Callable[[Tensor], Tensor], d: int) -> None:
    """1e-8 on each coordinate of the difference and on its norm: DINOv3's numbers, which no other input shows."""
    features = randn(1, d).expand(3, d).clone().requires_grad_()
    expected = -math.log(1e-8 * math.sqrt(d) + 1e-8)
    value = loss(features)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("loss", [koleo, koleo_distributed])
def test_a_feature_shorter_than_the_epsilon_is_not_made_a_unit_vector(loss: Callable[[Tensor], Tensor]) -> None:
    features = torch.eye(2) * 1e-9  # a tenth of 1e-8: each becomes a vector of length 0.1
    assert loss(features).item() == pytest.approx(-math.log(0.1 * math.sqrt(2)), rel=1e-5)


@pytest.mark.parametrize("topk", [1, 2, 5])
def test_distributed_koleo_takes_the_topk_nearest(topk: int) -> None:
    features = randn(6, 4)
    assert koleo_distributed(features, topk).item() == pytest.approx(by_loops(features, topk), rel=1e-5)


def test_alone_with_one_neighbour_the_two_forms_are_one() -> None:
    features = randn(6, 4)
    torch.testing.assert_close(koleo_distributed(features), koleo(features))


def test_koleo_ignores_feature_scale() -> None:
    features = randn(6, 4)
    torch.testing.assert_close(koleo(features * torch.rand(6, 1).add(1)), koleo(features))


def test_opposite_features_are_two_apart() -> None:
    """With cosine -1 to the only other row, a row must still not take itself."""
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert koleo(features).item() == pytest.approx(-torch.tensor(2.0).log().item())


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("loss", [koleo, koleo_distributed])
def test_without_a_neighbour_it_is_zero_with_a_graph(n: int, loss: object) -> None:
    features = randn(n, 4).requires_grad_()
    value = loss(features)  # type: ignore[operator]
    value.backward()
    assert value.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_duplicates_and_zero_vectors_stay_finite() -> None:
    features = torch.cat([torch.ones(3, 4), torch.zeros(2, 4), randn(1, 4)]).requires_grad_()
    for value in (koleo(features), koleo_distributed(features, topk=2)):
        (grad,) = torch.autograd.grad(value, features)
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


def test_the_gradient_pushes_neighbours_apart() -> None:
    features = torch.tensor([[1.0, 0.01], [1.0, -0.01], [-1.0, 0.0]]).requires_grad_()
    (grad,) = torch.autograd.grad(koleo(features), features)
    assert grad[0, 1] < 0 < grad[1, 1]


def test_autocast_does_not_lower_the_precision() -> None:
    features = randn(32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = koleo(features)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, koleo(features))


def test_half_precision_features_are_compared_in_fp32() -> None:
    features = randn(8, 16).bfloat16()
    assert torch.equal(koleo(features), koleo(features.float()))


@pytest.mark.parametrize("topk", [0, 4])
def test_a_wrong_topk_names_the_choices(topk: int) -> None:
    with pytest.raises(ValueError, match=f"koleo topk {topk}: 4 rows have 1 to 3 neighbours"):
        koleo_distributed(randn(4, 2), topk)


@pytest.mark.parametrize("size", [3, 6, 9])
def test_a_group_that_cuts_a_process_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=f"koleo loss_group_size {size}"):
        koleo_distributed(randn(4, 2), 1, size)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    out = {}
    for size in (3, 6, 12):
        features = randn(12, 4).split(3)[rank].requires_grad_()
        loss = koleo_distributed(features, topk=2, loss_group_size=size)
        out[size] = loss.detach(), torch.autograd.grad(loss, features)[0]
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_each_group_of_processes_equals_one_process_with_its_rows(tmp_path: Path) -> None:
    run_processes(_worker, (str(tmp_path),), 4)
    ours = [torch.load(tmp_path / f"{rank}.pt") for rank in range(4)]
    for size in (3, 6, 12):
        for start in range(0, 12, size):
            group = randn(12, 4)[start : start + size].requires_grad_()
            loss = koleo_distributed(group, topk=2)
            ranks = range(start // 3, (start + size) // 3)
            torch.testing.assert_close(torch.stack([ours[r][size][0] for r in ranks]).mean(), loss.detach())
            # each process averages over its 3 rows, the group over all of them
            expected = torch.autograd.grad(loss, group)[0] * len(ranks)
            torch.testing.assert_close(torch.cat([ours[r][size][1] for r in ranks]), expected, rtol=1e-4, atol=1e-6)
