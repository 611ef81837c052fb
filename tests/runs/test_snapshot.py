from __future__ import annotations

import torch

from dinov3.runs.snapshot import Snapshot


def test_a_snapshot_keeps_the_values_of_its_moment_and_reuses_its_memory() -> None:
    live = {"w": torch.arange(6.0).view(2, 3).t(), "half": torch.ones(3).bfloat16(), "n": torch.tensor(2**40)}
    snapshot = Snapshot()
    first = snapshot.take(live)
    before = {k: v.clone() for k, v in live.items()}
    for tensor in live.values():
        tensor.add_(1)
    assert all(torch.equal(first[k], v) and first[k].dtype == v.dtype for k, v in before.items())
    places = {k: v.data_ptr() for k, v in first.items()}
    second = snapshot.take(live)
    assert {k: v.data_ptr() for k, v in second.items()} == places, "no new memory"
    assert all(torch.equal(second[k], v) for k, v in live.items())


def test_a_parameter_is_copied_without_its_gradient_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    assert not Snapshot().take({"w": weight})["w"].requires_grad
