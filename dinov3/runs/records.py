"""Where the figures of a run go: the JSONL files always, and every sink that the config switches on."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.runs.metrics import MetricsFile, keep_rows
from dinov3.runs.run_id import run_id
from dinov3.runs.sinks.csv_sink import CsvSink
from dinov3.runs.sinks.sink import Row, Sink

log = logging.getLogger(__name__)


class Records:
    """Each row to ``metrics.jsonl`` or ``evaluation.jsonl`` first, then to the sinks. Only the main process has one.

    An error of a sink is one warning and the end of that sink; one of the JSONL files is an error of the run.
    """

    def __init__(self, out: Path, resume_at: int, sinks: Callable[[], Sequence[Sink]] = tuple) -> None:
        """``resume_at``: the rows of this step, and what was measured after a later one, will come again.

        ``sinks`` is called when the files are ready.
        """
        self._metrics = MetricsFile(out / "metrics.jsonl", resume_at)
        self._evaluation = out / "evaluation.jsonl"
        if self._evaluation.exists():
            keep_rows(self._evaluation, lambda row: row["step"] <= resume_at)
        self._sinks = list(sinks())

    def write(self, row: Row) -> None:
        """The figures of a training step, with its ``iteration``."""
        self._metrics.write(row)
        self._each(lambda sink: sink.train(row))

    def evaluation(self, row: Row) -> None:
        """What was measured after ``row["step"]`` steps."""
        with self._evaluation.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._each(lambda sink: sink.evaluation(row))

    def picture(self, path: Path, step: int) -> None:
        """A picture that was written to the run folder."""
        self._each(lambda sink: sink.picture(path, step))

    def close(self) -> None:
        """Close files and sinks; a second time does nothing."""
        self._metrics.close()
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # noqa: BLE001 - training goes on, whatever a library for pictures of it does
                self._sinks.remove(sink)
                log.warning("%s is off from here: %s: %s", type(sink).__name__, type(error).__name__, error)


def open_records(cfg: Config, out: Path, resume_at: int) -> Records:
    """The records of a run that (re)starts at step ``resume_at``."""

    def sinks() -> list[Sink]:
        found: list[Sink] = []
        if cfg.logging.csv:
            found.append(CsvSink(out))
        if cfg.logging.tensorboard:
            from dinov3.runs.sinks.tensorboard_sink import TensorBoardSink

            found.append(TensorBoardSink(out, resume_at, to_yaml(cfg)))
        if cfg.wandb.enabled and cfg.wandb.mode != "disabled":
            from dinov3.runs.sinks.wandb_sink import WandbSink

            found.append(WandbSink(cfg.wandb, out, run_id(out), to_dict(cfg)))
        return found

    return Records(out, resume_at, sinks)


def refuse_missing_packages(cfg: Config) -> None:
    """ConfigError for a sink whose package is not installed, before anything is written. wandb only warns, later."""
    if cfg.logging.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("config", "logging.tensorboard", "needs tensorboard: pip install 'dinov3[tensorboard]'")
