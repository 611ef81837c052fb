from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinov3.config.schema import WandbConfig
from dinov3.runs.sinks import wandb_sink
from dinov3.runs.sinks.wandb_sink import WandbSink
from tests.runs.sinks.conftest import Calls

Install = Callable[[str], Calls]
A_SERVER_THAT_HANGS = 600.0  # seconds, in fake_wandb.py: less than half of it was no waiting for it, on any machine


def sink(out: Path, mode: Any = "offline", timeout: float = 300.0) -> WandbSink:
    return WandbSink(
        WandbConfig(enabled=True, mode=mode, init_timeout=timeout), out, "abcd1234", {"train": {"seed": 0}}
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_rows_go_over_their_own_step_and_the_id_is_the_one_given(
    fake_wandb: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = fake_wandb("")
    (tmp_path / "pca.png").write_bytes(b"12345")
    one = sink(tmp_path)
    one.train({"iteration": 7, "total_loss": 2.5})
    one.evaluation({"step": 8, "knn_accuracy": 0.5})
    one.picture(tmp_path / "pca.png", 8)
    one.close()
    names = [name for name, _ in calls()]
    assert names[0] == "init"
    assert names[-1] == "finish"
    init = calls()[0][1]
    assert init.pop("pid") != os.getpid()
    assert init == {
        "project": "dinov3",
        "entity": None,
        "name": tmp_path.name,
        "mode": "offline",
        "id": "abcd1234",
        "dir": str(tmp_path),
        "config": {"train": {"seed": 0}},
        "resume": "allow",
        "settings": {"init_timeout": 300.0},
    }
    defined = {c["name"]: c["step_metric"] for name, c in calls() if name == "define_metric"}
    assert defined["train/*"] == "train/step"
    assert defined["evaluation/*"] == "evaluation/step"
    assert [c for name, c in calls() if name == "log"] == [
        {"train/step": 7, "train/iteration": 7, "train/total_loss": 2.5},
        {"evaluation/step": 8, "evaluation/knn_accuracy": 0.5},
        {"pictures/pca": "image of 5 bytes", "pictures/step": 8},
    ]
    assert warnings(caplog) == []


def test_without_a_key_it_logs_offline_under_the_same_id(
    fake_wandb: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = fake_wandb("no key")
    one = sink(tmp_path, mode="online")
    one.train({"iteration": 0})
    one.close()
    starts = [c for name, c in calls() if name in ("init", "teardown")]
    assert [c.get("mode") for c in starts] == ["online", None, "offline"]
    assert starts[0]["id"] == starts[2]["id"]
    assert [c["train/step"] for name, c in calls() if name == "log"] == [0]
    assert len(warnings(caplog)) == 1
    assert f"No API key configured: logging offline in {tmp_path}/wandb" in caplog.text


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("missing", "No module named 'wandb': `pip install wandb`; rows are only in metrics.jsonl"),
        ("dies", "the service is gone; rows are only in metrics.jsonl from here"),
        ("disk full", "No space left on device; rows are only in metrics.jsonl from here"),
        ("killed", "its process ended with 9; rows are only in metrics.jsonl from here"),
    ],
)
def test_whatever_ends_it_is_one_warning(
    fake_wandb: Install, tmp_path: Path, behaviour: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake_wandb(behaviour)
    one = sink(tmp_path)
    for step in range(3):
        one.train({"iteration": step})
    end = time.monotonic() + 300
    while one._process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    for step in range(3, 50):
        one.train({"iteration": step})
    one.close()
    assert len(warnings(caplog)) == 1
    assert words in warnings(caplog)[0]


@pytest.mark.parametrize("behaviour", ["hangs", "hangs later"])
def test_a_server_that_never_answers_costs_the_run_nothing_but_the_agreed_wait(
    fake_wandb: Install,
    tmp_path: Path,
    behaviour: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_wandb(behaviour)
    monkeypatch.setattr(wandb_sink, "QUEUE", 50)
    begin = time.monotonic()
    one = sink(tmp_path, timeout=1.0)
    for step in range(3000):  # more than the queue and the pipe hold
        one.train({"iteration": step, "total_loss": 1.0})
    assert time.monotonic() - begin < A_SERVER_THAT_HANGS / 2
    begin = time.monotonic()
    one.close()
    assert time.monotonic() - begin < A_SERVER_THAT_HANGS / 2
    assert one._process.returncode == -9, "no process is left behind"
    assert len(warnings(caplog)) == 1
    assert "rows are waiting, new ones are dropped" in warnings(caplog)[0]


def test_nothing_of_wandb_is_loaded_into_the_training_process(fake_wandb: Install, tmp_path: Path) -> None:
    import sys

    fake_wandb("")
    before = {"modules": set(sys.modules), "environ": dict(os.environ), "exit": sys.exit, "hook": sys.excepthook}
    one = sink(tmp_path)
    one.close()
    assert "wandb" not in set(sys.modules) - before["modules"]
    assert (dict(os.environ), sys.exit, sys.excepthook) == (before["environ"], before["exit"], before["hook"])


def test_the_real_package_writes_an_offline_run_that_holds_nothing_but_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    one = sink(tmp_path, timeout=300.0)
    one.train({"iteration": 0, "total_loss": 2.5})
    one.close()
    assert warnings(caplog) == []
    (run,) = (tmp_path / "wandb").glob("offline-run-*-abcd1234")
    assert b"total_loss" in (run / "run-abcd1234.wandb").read_bytes()
    assert [p for p in (run / "files").rglob("*") if p.is_file()] == []


@pytest.mark.nightly
def test_the_real_package_falls_back_to_offline_when_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    one = sink(tmp_path, mode="online", timeout=20.0)
    one.train({"iteration": 0, "total_loss": 2.5})
    one.close()
    assert len(warnings(caplog)) == 1
    assert "logging offline" in warnings(caplog)[0]
    (run,) = (tmp_path / "wandb").glob("offline-run-*-abcd1234")
    assert b"total_loss" in (run / "run-abcd1234.wandb").read_bytes()
