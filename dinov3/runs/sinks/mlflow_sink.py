"""MLflow: figures sent from a thread of its own, so that a slow server delays nothing but the end, and that for seconds."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.config.changes import flatten
from dinov3.config.schema import LoggingConfig
from dinov3.runs.sinks.sink import Row, numbers

log = logging.getLogger(__name__)
QUEUE = 10_000  # rows
PATIENCE = 30.0  # seconds at the end for what is not sent yet
TAG = "dinov3.run"  # the same for every turn of a run
PARAMS = 100  # a request, the most that MLflow takes
LONGEST = 500  # characters of a value that every server takes


class MlflowSink:
    """Sends rows as ``train/*`` and ``evaluation/*`` by step, and the config as parameters.

    The first thing that goes wrong is one WARNING; from there on rows are only in the JSONL files.
    """

    def __init__(self, settings: LoggingConfig, out: Path, run_id: str, config: Mapping[str, Any]) -> None:
        """``run_id``: the same for every turn of a run; ``config``: nested, without secrets."""
        self._queue: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(QUEUE)
        self._settings, self._name, self._id, self._config = settings, out.absolute().name, run_id, config
        self._warned = False
        self._thread = threading.Thread(target=self._send, name="dinov3-mlflow", daemon=True)
        self._thread.start()

    def train(self, row: Row) -> None:
        self._put({f"train/{k}": v for k, v in numbers(row).items()}, row["iteration"])

    def evaluation(self, row: Row) -> None:
        self._put({f"evaluation/{k}": v for k, v in numbers(row).items()}, row["step"])

    def picture(self, path: Path, step: int) -> None:
        """Pictures stay in the run folder: where artifacts go is the server's matter."""

    def close(self) -> None:
        """Wait ``PATIENCE`` at most for what is still to be sent."""
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(queue.Full):  # the warning below says it
            self._queue.put(None, timeout=PATIENCE)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self._warn(f"not everything was sent within {PATIENCE:g} s; all rows are in metrics.jsonl")

    def _put(self, values: dict[str, float], step: int) -> None:
        try:
            self._queue.put_nowait((values, step))
        except queue.Full:
            self._warn(f"{QUEUE} rows are waiting, new ones are dropped; all are in metrics.jsonl")

    def _send(self) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric

            client = MlflowClient(tracking_uri=self._settings.mlflow)
            run = self._begin(client)
            while (item := self._queue.get()) is not None:
                values, step = item
                now = int(time.time() * 1000)
                client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])
            client.set_terminated(run)
        except Exception as error:  # noqa: BLE001 - whatever a server or its library does, training goes on
            self._warn(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            while self._queue.get() is not None:  # so that nothing waits for room
                pass

    def _begin(self, client: Any) -> str:
        """The run there: that of an earlier turn, or a new one with the config as its parameters."""
        from mlflow.entities import Param

        found = client.get_experiment_by_name(self._settings.mlflow_experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._settings.mlflow_experiment)
        earlier = client.search_runs([experiment], f"tags.`{TAG}` = '{self._id}'", max_results=1)
        if earlier:
            run: str = earlier[0].info.run_id
            client.update_run(run, status="RUNNING")
            return run
        run = client.create_run(experiment, run_name=self._name, tags={TAG: self._id}).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in flatten(self._config).items()]
        for first in range(0, len(params), PARAMS):
            client.log_batch(run, params=params[first : first + PARAMS])
        return run

    def _warn(self, text: str) -> None:
        level, self._warned = logging.INFO if self._warned else logging.WARNING, True
        log.log(level, "mlflow: %s", text)
