"""Training in bf16 on a CPU: the losses and gradients of fp32 up to bf16's rounding, continued bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.train.accumulation import accumulate
from dinov3.train.command import main
from tests.plan.real import real_step
from tests.train.test_run import assert_identical
from tests.train.tiny import command, tiny_config

BF16: dict[str, Any] = {"compute_precision__cpu_dtype": "bf16"}


def step_of(**changes: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Losses by name, and all gradients of the backbone as one vector."""
    made = real_step(tiny_config(student__drop_path_rate=0.0, student__layerscale=1.0, train__log_every=100, **changes))
    total, terms = accumulate(made.model, made.batches, teacher_temp=0.05, iteration=1)
    gradients = [p.grad.flatten() for p in made.model.student["backbone"].parameters() if p.grad is not None]
    return {"total": total} | {k: v for k, v in terms.items() if isinstance(v, Tensor)}, torch.cat(gradients)


@pytest.mark.parametrize(
    "changes", [{}, {"gram__use_loss": True, "gram__ema_teacher": True}, {"train__checkpointing": True}]
)
def test_losses_and_gradients_are_those_of_fp32_up_to_rounding(changes: dict[str, Any]) -> None:
    (expected, gradient), (ours, our_gradient) = step_of(**changes), step_of(**BF16, **changes)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key].dtype == value.dtype, key
        assert float(ours[key]) == pytest.approx(float(value), rel=0.02, abs=0.01), key
    assert torch.cosine_similarity(our_gradient, gradient, dim=0) > 0.99
    assert float(our_gradient.norm()) == pytest.approx(float(gradient.norm()), rel=0.05)


def test_a_run_in_bf16_says_so_and_continues_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(whole, **BF16)) == 0
    assert ", bf16: compute_precision.cpu_dtype" in capsys.readouterr().out
    assert main(command(parts, train__max_steps=5, **BF16)) == 0
    assert main(command(parts, **BF16)) == 0
    assert_identical(parts, whole)
    losses = [json.loads(line)["total_loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < loss < 20 for loss in losses)
