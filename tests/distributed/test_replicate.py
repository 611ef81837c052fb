"""Gradients summed during the backward pass are those summed after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dinov3.distributed import replicate
from dinov3.distributed.replicate import EarlySums, average_gradients, buckets
from tests.distributed.processes import Phase, run_phases


def test_buckets_hold_every_parameter_once_in_order_and_end_when_they_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicate, "BUCKET", 10)
    parameters = [torch.zeros(n) for n in (4, 4, 4, 20, 1)]
    pieces = buckets(parameters)
    assert [[len(p) for p in piece] for piece in pieces] == [[4, 4, 4], [20], [1]]
    assert buckets([]) == []


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3))


def inputs(part: int) -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * dist.get_rank() + part))


def backward(model: nn.Module, parts: int, spoil: bool, before_last: Callable[[], None]) -> None:
    for part in range(parts):
        loss = model(inputs(part)).square().sum()
        if spoil and dist.get_rank() == 1:
            loss = loss * torch.nan
        if part == parts - 1:
            before_last()
        loss.backward()


def compare(folder: Path, *, parts: int, dtype: torch.dtype, spoil: bool, unused: bool) -> None:
    """Both ways on the same draws; ``unused``: the first layer has no gradient."""
    replicate.BUCKET = 30
    after, during = net(), net()
    for model in (after, during):
        model[0].requires_grad_(True)
    sums = EarlySums(list(during.parameters()), dtype)
    for _ in range(2):  # a second step begins as the first did
        early: list[int] = []
        for model in (after, during):
            model.zero_grad(set_to_none=True)
        tail = slice(2, None) if unused else slice(0, None)
        backward_of = [nn.Sequential(*model[tail]) for model in (after, during)]
        if unused:
            for model in backward_of:
                model.insert(0, Widen())
        backward(backward_of[0], parts, spoil, lambda: None)
        average_gradients(after.parameters(), dtype)
        backward(backward_of[1], parts, spoil, sums.last_backward)
        early.append(sums._next)
        sums.finish()
        for ours, theirs in zip(during.parameters(), after.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None) == (unused and ours.shape[0] == 7)
            if ours.grad is not None:
                assert theirs.grad is not None
                assert torch.equal(ours.grad.nan_to_num(9.0), theirs.grad.nan_to_num(9.0))
        whole = len(sums._buckets)
        assert early == [whole - 1 if unused else whole], "sums began only after the backward pass"
        assert dist.get_world_size() == 2


class Widen(nn.Module):
    """Stands for a layer that has no gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :2]], dim=1)


def test_gradients_summed_during_the_backward_pass_are_bit_for_bit_those_summed_after_it(tmp_path: Path) -> None:
    """Two processes: with accumulation, a step that is not finite, a layer without gradient, sums in bf16."""
    cases = [
        partial(compare, parts=1, dtype=torch.float32, spoil=False, unused=False),
        partial(compare, parts=3, dtype=torch.float32, spoil=False, unused=False),
        partial(compare, parts=2, dtype=torch.float32, spoil=True, unused=False),
        partial(compare, parts=2, dtype=torch.bfloat16, spoil=False, unused=False),
        partial(compare, parts=1, dtype=torch.float32, spoil=False, unused=True),
    ]
    run_phases([Phase(case, 2) for case in cases], tmp_path)
