from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Calls = Callable[[], list[tuple[str, dict[str, Any]]]]


@pytest.fixture
def fake_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Calls]:
    """Put the fake where the child of the sink imports wandb from; returns a reader of its calls."""

    def install(behaviour: str) -> Calls:
        package, calls = tmp_path / "fake" / "wandb", tmp_path / "fake" / "calls"
        package.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("fake_wandb.py"), package / "__init__.py")
        monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("FAKE_WANDB", behaviour)
        monkeypatch.setenv("FAKE_WANDB_CALLS", str(calls))
        calls.touch()
        return lambda: [tuple(json.loads(line)) for line in calls.read_text().splitlines()]

    return install
