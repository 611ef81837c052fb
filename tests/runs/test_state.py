from __future__ import annotations

import torch
from torch import nn

from dinov3.runs.state import allocate_optimizer_state, digest, training_tensors


def test_zero_state_allocated_early_changes_no_update() -> None:
    results = []
    for early in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        if early:
            allocate_optimizer_state(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        results.append(digest(training_tensors(model, dict(model.state_dict()), optimizer)))
    assert results[0] == results[1]


def test_the_table_names_every_tensor_of_model_and_optimizer() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    allocate_optimizer_state(optimizer)
    names = set(training_tensors(model, dict(model.state_dict()), optimizer))
    state = {f"optimizer.state.{p}.{k}" for p in ("weight", "bias") for k in ("step", "exp_avg", "exp_avg_sq")}
    assert names == {"weight", "bias"} | state


def test_a_digest_sees_one_changed_bit() -> None:
    a = {"x": torch.zeros(4)}
    b = {"x": torch.tensor([0.0, 0.0, 0.0, 1e-45])}
    assert digest(a) != digest(b)
    assert digest(a) == digest({"x": torch.zeros(4)})
