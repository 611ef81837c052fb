from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3.compress.energy import prune
from dinov3.compress.recovery.loss import recovery_loss
from dinov3.compress.surgery import rebuilt
from tests.compress.models import images, vit


def test_it_is_zero_for_the_model_itself_and_counts_length() -> None:
    features: Any = vit()(images(3), is_training=True)
    assert float(recovery_loss(features, features)) == pytest.approx(0.0, abs=1e-12)
    longer = features._replace(cls=2 * features.cls, patches=2 * features.patches)
    assert float(recovery_loss(longer, features)) == pytest.approx(2.0, rel=1e-5)
    assert float(recovery_loss(longer, features, patch_weight=0.0)) == pytest.approx(1.0, rel=1e-5)


def test_a_few_steps_bring_a_cut_model_back_towards_the_whole_one() -> None:
    whole = vit()
    cut = vit()
    prune(cut, "mlp", 0.8)
    small = rebuilt(cut)
    x = images(16)
    with torch.no_grad():
        wanted: Any = whole(x, is_training=True)
    optimizer = torch.optim.Adam(small.parameters(), 3e-3)
    values = []
    for _ in range(15):
        loss = recovery_loss(small(x, is_training=True), wanted)  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.6 * values[0]
