"""What a run does at a step is what the schedules say of that step: its metrics, its parameters and its EMA."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinov3.engine.schedules import Schedules, build_schedules
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from tests.train.tiny import command, tiny_config

SETTINGS: dict[str, object] = {
    "train__max_steps": 6,
    "checkpointing__period": 1,
    "checkpointing__max_to_keep": "null",
    "evaluation__pictures": "false",
    "optim__freeze_last_layer_epochs": 1,  # 4 steps
    "optim__clip_grad": 0,
    "teacher__momentum_teacher": 0.5,  # far from 1, so that a step more or less shows
}
WEIGHT, LAST = "dino_head.mlp.0.weight", "dino_head.last_layer.weight"  # multipliers of learning rate and decay are 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("schedules") / "run"
    assert main(command(out, **SETTINGS)) == 0
    return out


@pytest.fixture(scope="module")
def schedules() -> Schedules:
    return build_schedules(tiny_config(**SETTINGS), world_size=1)


def steps(run: Path) -> Iterator[tuple[int, dict[str, Tensor], dict[str, Tensor]]]:
    """Number of a step, the state before and after it."""
    states = [read_tensors(folder / "state", prefix="") for folder in sorted(step_folders(run))]
    assert len(states) == 6
    for step, (before, after) in enumerate(pairwise(states), start=1):
        yield step, before, after


def test_a_row_of_metrics_has_the_values_of_its_own_step(run: Path, schedules: Schedules) -> None:
    rows = read_rows(run / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == list(range(6))
    for row in rows:
        now = schedules.at(row["iteration"])
        assert (row["lr"], row["last_layer_lr"]) == (now.lr, now.last_layer_lr)
        assert (row["wd"], row["mom"], row["teacher_temp"]) == (now.wd, now.momentum, now.teacher_temp)
    assert len({row["lr"] for row in rows[:4]}) == 4, "a warm-up: another value at every step"


@pytest.mark.parametrize(("name", "frozen"), [(WEIGHT, 0), (LAST, 4)])
def test_parameters_move_by_the_learning_rate_of_that_step(
    run: Path, schedules: Schedules, name: str, frozen: int
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) from the moments the step left behind."""
    cfg = tiny_config(**SETTINGS).optim
    moved = 0
    for step, before, after in steps(run):
        now, moments = schedules.at(step), f"optimizer.state.student.{name}"
        lr = now.last_layer_lr if name == LAST else now.lr
        assert (lr == 0) == (step < frozen)
        old, new = (state[f"student.{name}"].double() for state in (before, after))
        mean = after[f"{moments}.exp_avg"].double() / (1 - cfg.adamw_beta1 ** (step + 1))
        square = after[f"{moments}.exp_avg_sq"].double() / (1 - cfg.adamw_beta2 ** (step + 1))
        expected = -lr * (now.wd * old + mean / (square.sqrt() + 1e-8))
        error = (new - old - expected).norm()
        assert error <= 0.01 * expected.norm(), f"step {step}: {error / expected.norm():.3f} of the step"
        moved += bool((new != old).any())
    assert moved == 6 - 1 - max(frozen - 1, 0)


def test_the_ema_follows_with_the_momentum_of_that_step(run: Path, schedules: Schedules) -> None:
    for step, before, after in steps(run):
        old, new, student = (
            state[key].double()
            for state, key in (
                (before, f"model_ema.{WEIGHT}"),
                (after, f"model_ema.{WEIGHT}"),
                (after, f"student.{WEIGHT}"),
            )
        )
        share = ((new - old) * (student - old)).sum() / ((student - old) ** 2).sum()
        torch.testing.assert_close(share.item(), 1 - schedules.at(step).momentum, rtol=2e-3, atol=1e-4)
        assert schedules.at(step).momentum != schedules.at(step + 1).momentum


def test_gradients_of_every_part_are_clipped_to_the_norm_that_is_asked_for(tmp_path: Path) -> None:
    """After one step the first moment is (1 - beta1) of what was left of the gradient."""
    changes: dict[str, object] = {**SETTINGS, "optim__clip_grad": 0.001, "train__max_steps": 1}
    assert main(command(tmp_path / "run", **changes)) == 0
    (row,) = read_rows(tmp_path / "run" / "metrics.jsonl")
    state = read_tensors(step_folders(tmp_path / "run")[-1] / "state", prefix="optimizer.state.student.")
    kept = 1 - tiny_config().optim.adamw_beta1
    for part in ("backbone", "dino_head", "ibot_head"):
        moments = [v.flatten() for k, v in state.items() if k.startswith(f"{part}.") and k.endswith(".exp_avg")]
        assert row[f"{part}_grad_norm"] > 0.001, "it is measured before it is clipped"
        assert (torch.cat(moments) / kept).norm().item() == pytest.approx(0.001, rel=1e-3)
