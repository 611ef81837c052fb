from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.train.command import main as train
from tests.train.tiny import command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run; its rotary tables are in bf16, as in official training."""
    out = tmp_path_factory.mktemp("runs") / "photos"
    assert train(command(out, train__max_steps=2, wandb__project="secret-project")) == 0
    return out
