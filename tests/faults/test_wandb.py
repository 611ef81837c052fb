"""F23: whatever happens to Weights & Biases, the losses are those without it, and it is one warning."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinov3.config.schema import Config
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import open_records
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from tests.runs.sinks.conftest import Calls, fake_wandb  # noqa: F401 - a fixture
from tests.train.tiny import command

Install = Callable[[str], Calls]
STEPS = 4
FIGURES = (
    "iteration",
    "samples",
    "total_loss",
    "dino_local_crops_loss",
    "ibot_loss",
    "koleo_loss",
    "backbone_grad_norm",
)
# what answers at all is waited for as long as a busy machine needs
ON: dict[str, object] = {"wandb__enabled": "true", "wandb__mode": "online", "wandb__init_timeout": 300}


def train(out: Path, **changes: object) -> int:
    return main(command(out, train__max_steps=STEPS, evaluation__pictures="false", **changes))


def figures(out: Path) -> list[list[str]]:
    return [[float(row[k]).hex() for k in FIGURES] for row in read_rows(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The losses of the run that knows nothing of wandb."""
    out = tmp_path_factory.mktemp("without")
    assert train(out) == 0
    return figures(out)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("", None),
        ("no key", "No API key configured: logging offline"),
        ("unreachable", "no answer: logging offline"),
        ("hangs", "not everything was sent within wandb.init_timeout, 3 s"),
        ("dies", "the service is gone; rows are only in metrics.jsonl from here"),
        ("killed", "its process ended with 9"),
        ("missing", "No module named 'wandb'"),
        ("disk full", "No space left on device"),
    ],
)
def test_losses_are_those_without_it_and_trouble_is_one_warning(
    without: list[list[str]],
    fake_wandb: Install,  # noqa: F811
    tmp_path: Path,
    behaviour: str,
    words: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = fake_wandb(behaviour)
    waits = {"wandb__init_timeout": 3} if behaviour == "hangs" else {}
    assert train(tmp_path / "run", **ON | waits) == 0
    assert figures(tmp_path / "run") == without
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == (words is not None)
    assert words is None or words in warnings[0]
    if behaviour in ("", "no key", "unreachable"):  # offline it has every row
        logged = [c for name, c in calls() if name == "log"]
        assert [float(c["train/total_loss"]).hex() for c in logged] == [row[2] for row in without]


def test_a_resumed_run_is_the_same_run_there_and_replayed_steps_are_not_lost(
    fake_wandb: Install,  # noqa: F811
    tmp_path: Path,
) -> None:
    calls = fake_wandb("")
    out = tmp_path / "run"
    assert main(command(out, train__max_steps=3, evaluation__pictures="false", **ON)) == 0
    assert train(out, **ON) == 0
    starts = [c for name, c in calls() if name == "init"]
    assert [s["id"] for s in starts] == [json.loads((out / "run_id.json").read_text())["wandb"]] * 2
    assert {s["resume"] for s in starts} == {"allow"}
    steps = [c["train/step"] for name, c in calls() if name == "log"]
    assert steps == [0, 1, 2, 3]
    axes: dict[str, Any] = {c["name"]: c["step_metric"] for name, c in calls() if name == "define_metric"}
    assert axes["train/*"] == "train/step", "no step is given to log(): wandb drops those that do not grow"


def test_no_secret_leaves_with_the_config(fake_wandb: Install, tmp_path: Path) -> None:  # noqa: F811
    calls = fake_wandb("")
    cfg = Config()
    cfg.train.dataset_path = "Tar:root=https://me:hunter2@host/shards:token=hf_secret"
    cfg.wandb.enabled, cfg.wandb.mode = True, "offline"
    open_records(cfg, RunFolder(tmp_path), 0).close()
    sent = json.dumps(calls())
    assert "REDACTED" in sent
    assert "hunter2" not in sent
    assert "hf_secret" not in sent
