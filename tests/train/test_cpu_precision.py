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
    made = real_step(tiny_config(**{"student__drop_path_rate": 0.0, "train__log_every": 100} | changes))
    total, terms = accumulate(made.model, made.batches, teacher_temp=0.05, iteration=1)
    gradients = [p.grad.flatten() for p in made.model.student["backbone"].parameters() if p.grad is not None]
    return {"total": total} | {k: v for k, v in terms.items() if isinstance(v, Tensor)}, torch.cat(gradients)


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"student__layerscale": 1.0},
    "Gram": {"student__layerscale": 1.0, "gram__use_loss": True, "gram__ema_teacher": True},
    "checkpointing": {"student__layerscale": 1.0, "train__checkpointing": True},
}


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_are_those_of_fp32_up_to_rounding(name: str) -> None:
    changes = RECIPES[name]
    (expected, gradient), (ours, our_gradient) = step_of(**changes), step_of(**BF16, **changes)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key].dtype == value.dtype, key
        assert float(ours[key]) == pytest.approx(float(value), rel=0.02, abs=0.01), key
    assert torch.cosine_similarity(our_gradient, gradient, dim=0) > 0.99
    assert float(our_gradient.norm()) == pytest.approx(float(gradient.norm()), rel=0.05)


@torch.no_grad()
def test_what_tells_images_apart_outlives_the_smallest_layer_scale() -> None:
    """A branch times 1e-5 is less than bf16 can add to a token, so tokens stay in fp32: class tokens would be equal."""

    def spread(**changes: Any) -> float:
        made = real_step(tiny_config(student__drop_path_rate=0.0, train__log_every=100, **changes))
        with made.model.precision.autocast():
            cls = made.model.get_student_output(made.batches[0])[0].cls_pre_head  # [2, B, D]
        return float(cls.float().std(dim=1).mean())  # over the images of either crop

    assert spread(**BF16) == pytest.approx(spread(), rel=0.2)


def test_a_run_in_bf16_says_so_and_continues_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(whole, **BF16)) == 0
    assert ", bf16: compute_precision.cpu_dtype is bf16" in capsys.readouterr().out
    assert main(command(parts, train__max_steps=5, **BF16)) == 0
    assert main(command(parts, **BF16)) == 0
    assert_identical(parts, whole)
    losses = [json.loads(line)["total_loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < loss < 20 for loss in losses)
