"""The moving centre of ``train.centering: centering``."""

from __future__ import annotations

import pytest
import torch

from dinov3.objectives.centering import CenteredObjective
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot
from tests.train.tiny import tiny_config


@pytest.fixture(params=[Dino, Ibot])
def objective(request: pytest.FixtureRequest) -> CenteredObjective:
    made: CenteredObjective = request.param(tiny_config(train__centering="centering"), 64)
    made.init_weights()
    return made


def logits_of(objective: CenteredObjective, value: float, rows: int = 5) -> torch.Tensor:
    return torch.full((rows, objective.head_cfg.head_n_prototypes), value)


def test_the_centre_keeps_nine_tenths_of_itself_a_step(objective: CenteredObjective) -> None:
    """Momentum 0.9 (Caron et al. 2021, appendix), as DINOv3's losses have it."""
    centres = []
    for _ in range(3):
        objective.before_step()
        objective.targets(logits_of(objective, 2.0), 0.07)
        objective.after_step()
        centres.append(objective.center.flatten()[0].item())
    assert centres == pytest.approx([0.2, 0.2 * 1.9, 0.2 * 2.71], rel=1e-6)


def test_a_step_of_several_batches_moves_the_centre_once_by_their_mean(objective: CenteredObjective) -> None:
    objective.before_step()
    objective.targets(logits_of(objective, 1.0, rows=2), 0.07)
    objective.targets(logits_of(objective, 4.0, rows=4), 0.07)
    objective.after_step()
    assert objective.center.flatten().tolist() == pytest.approx([0.3] * objective.center.numel(), rel=1e-6)


def test_a_step_that_was_skipped_moves_no_centre(objective: CenteredObjective) -> None:
    objective.targets(logits_of(objective, 1.0), 0.07)
    objective.before_step()
    objective.after_step()
    assert not objective.center.any()
