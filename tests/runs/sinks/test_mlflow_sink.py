from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from dinov3.config.schema import LoggingConfig
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records, refuse_missing_packages
from dinov3.runs.sinks import mlflow_sink
from dinov3.runs.sinks.mlflow_sink import TAG, MlflowSink
from tests.train.tiny import tiny_config

CONFIG = {"optim": {"lr": 0.1}, "student": {"arch": "vit_small"}}


class Server:
    """What MLflow's client is used for, kept in memory."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, object]] = {}
        self.wait = threading.Event()
        self.wait.set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A module ``mlflow`` with the calls of MlflowClient that the sink makes."""
    import sys
    from types import ModuleType, SimpleNamespace

    server = Server()

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            if tracking_uri == "http://nowhere":
                raise OSError("no such host\nsecond line")

        def get_experiment_by_name(self, name: str) -> object:
            return None

        def create_experiment(self, name: str) -> str:
            return f"e-{name}"

        def search_runs(self, experiments: list[str], text: str, max_results: int) -> list[object]:
            found = [n for n, run in server.runs.items() if text == f"tags.`{TAG}` = '{run['tags'][TAG]}'"]
            return [SimpleNamespace(info=SimpleNamespace(run_id=name)) for name in found]

        def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> object:
            server.runs["r1"] = {"name": run_name, "tags": tags, "metrics": [], "params": {}, "in": experiment}
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        def update_run(self, run: str, status: str) -> None:
            server.runs[run]["status"] = status

        def log_batch(self, run: str, metrics: object = (), params: object = ()) -> None:
            server.wait.wait()
            server.runs[run]["metrics"] += [(m.key, m.value, m.step) for m in metrics]
            server.runs[run]["params"] |= {p.key: p.value for p in params}

        def set_terminated(self, run: str) -> None:
            server.runs[run]["status"] = "FINISHED"

    class Metric:
        def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
            self.key, self.value, self.step = key, value, step

    class Param:
        def __init__(self, key: str, value: str) -> None:
            self.key, self.value = key, value

    package, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    package.MlflowClient, entities.Metric, entities.Param = Client, Metric, Param
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return server


def records(out: Path, uri: str = "http://here", resume_at: int = 0) -> Records:
    settings = LoggingConfig(mlflow=uri)
    return Records(RunFolder(out), resume_at, lambda: [MlflowSink(settings, out, "id-1", CONFIG)])


def test_figures_and_the_config_arrive_and_a_second_turn_goes_on_in_the_same_run(
    server: Server, tmp_path: Path
) -> None:
    first = records(tmp_path)
    first.write({"iteration": 0, "total_loss": 2.0, "note": "text", "flag": True})
    first.evaluation({"step": 1, "knn_accuracy": 0.5})
    first.close()
    second = records(tmp_path, resume_at=1)
    second.write({"iteration": 1, "total_loss": 1.0})
    second.close()
    (run,) = server.runs.values()
    assert run["metrics"] == [
        ("train/iteration", 0, 0),
        ("train/total_loss", 2.0, 0),
        ("evaluation/step", 1, 1),
        ("evaluation/knn_accuracy", 0.5, 1),
        ("train/iteration", 1, 1),
        ("train/total_loss", 1.0, 1),
    ]
    assert run["params"] == {"optim.lr": "0.1", "student.arch": "vit_small"}
    assert (run["name"], run["status"]) == (tmp_path.name, "FINISHED")


def test_a_server_that_is_not_there_is_one_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = records(tmp_path, "http://nowhere")
    for step in range(3):
        run.write({"iteration": step, "total_loss": 1.0})
    run.close()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == ["mlflow: OSError: no such host"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_server_that_does_not_answer_delays_the_end_for_a_bounded_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_sink, "PATIENCE", 0.2)
    server.wait.clear()
    run = records(tmp_path)
    run.write({"iteration": 0, "total_loss": 1.0})
    run.close()
    assert "not everything was sent" in caplog.text
    server.wait.set()


def test_a_missing_package_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from dinov3.config.errors import ConfigError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"logging\.mlflow: needs mlflow: pip install 'dinov3\[mlflow\]'"):
        refuse_missing_packages(tiny_config(logging__mlflow="http://here"))


@pytest.mark.nightly
def test_the_real_client_writes_what_it_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_sink, "PATIENCE", 600.0)  # its import alone takes long on a busy machine
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for turn in range(2):
        run = records(tmp_path, uri, turn)
        run.write({"iteration": turn, "total_loss": 2.0 - turn})
        run.close()
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("dinov3").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/total_loss")
    assert [(m.step, m.value) for m in history] == [(0, 2.0), (1, 1.0)]
    assert found.data.params["optim.lr"] == "0.1"
