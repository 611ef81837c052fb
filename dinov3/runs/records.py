"""Where the figures of a run go: the JSONL files always, and every sink that the config switches on."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.run_config import RunConfig
from dinov3.runs.folder import RunFolder
from dinov3.runs.run_id import run_id
from dinov3.runs.sinks.csv_sink import CsvSink
from dinov3.runs.sinks.sink import Sink
from dinov3.system.rows import RowWriter, append_row, keep_rows

log = logging.getLogger(__name__)
Row = dict[str, Any]


class Records:
    """Each row to ``metrics.jsonl`` or ``evaluation.jsonl`` first, then to the sinks. Only the main process has one.

    An error of a sink is one warning and the end of that sink; one of the JSONL files is an error of the run or, when
    ``forgiving``, a warning for each stretch of rows that is lost.
    """

    def __init__(
        self,
        run: RunFolder,
        resume_at: int,
        sinks: Callable[[], Sequence[Sink]] = tuple,
        *,
        forgiving: bool = False,
    ) -> None:
        """``resume_at``: the rows of this step, and what was measured after a later one, will come again.

        ``sinks`` is called when the files are ready.
        """
        keep_rows(run.metrics, lambda row: row.get("iteration", resume_at) < resume_at)
        if run.evaluation.exists():
            keep_rows(run.evaluation, lambda row: row.get("step", resume_at + 1) <= resume_at)
        self._metrics, self._evaluation, self._alarms = RowWriter(run.metrics), run.evaluation, run.alarms
        self._forgiving, self._losing = forgiving, False
        self._sinks = list(sinks())

    def write(self, row: Row) -> None:
        """The figures of a training step, with its ``iteration``."""
        self._keep(self._metrics.write, row)
        self._each(lambda sink: sink.train(row))

    def evaluation(self, row: Row) -> None:
        """What was measured after ``row["step"]`` steps."""
        self._keep(lambda new: append_row(self._evaluation, new), row)
        self._each(lambda sink: sink.evaluation(row))

    def alarm(self, row: Row) -> None:
        """Something is wrong with the figures: a line of alarms.jsonl."""
        self._keep(lambda new: append_row(self._alarms, new), row)

    def picture(self, path: Path, step: int) -> None:
        """A picture that was written to the run folder."""
        self._each(lambda sink: sink.picture(path, step))

    def close(self) -> None:
        """Close files and sinks; a second time does nothing."""
        self._metrics.close()
        self._each(lambda sink: sink.close())
        self._sinks.clear()

    def _keep(self, write: Callable[[Row], None], row: Row) -> None:
        try:
            write(row)
        except OSError as error:
            if not self._forgiving:
                raise
            if not self._losing:
                log.warning("figures are lost until there is room again (checkpointing.on_error=warn): %s", error)
            self._losing = True
        else:
            self._losing = False

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # noqa: BLE001 - training goes on, whatever a library for pictures of it does
                self._sinks.remove(sink)
                log.warning("%s is off from here: %s: %s", type(sink).__name__, type(error).__name__, error)


def open_records(cfg: RunConfig, run: RunFolder, resume_at: int) -> Records:
    """The records of a run that (re)starts at step ``resume_at``."""

    def sinks() -> list[Sink]:
        found: list[Sink] = []
        if cfg.logging.csv:
            found.append(CsvSink(run.path))
        if cfg.logging.tensorboard:
            from dinov3.runs.sinks.tensorboard_sink import TensorBoardSink

            found.append(TensorBoardSink(run.path, resume_at, to_yaml(cfg)))
        if cfg.logging.mlflow:
            from dinov3.runs.sinks.mlflow_sink import MlflowSink

            found.append(MlflowSink(cfg.logging, run.path, run_id(run), to_dict(cfg)))
        if cfg.wandb.enabled and cfg.wandb.mode != "disabled":
            from dinov3.runs.sinks.wandb_sink import WandbSink

            found.append(WandbSink(cfg.wandb, run.path, run_id(run), to_dict(cfg)))
        return found

    return Records(run, resume_at, sinks, forgiving=cfg.checkpointing.on_error == "warn")


def refuse_missing_packages(cfg: RunConfig) -> None:
    """ConfigError for a sink whose package is not installed, before anything is written. wandb only warns, later."""
    wanted = {"tensorboard": cfg.logging.tensorboard, "mlflow": bool(cfg.logging.mlflow)}
    for package in (package for package, given in wanted.items() if given):
        if importlib.util.find_spec(package) is None:
            raise ConfigError("config", f"logging.{package}", f"needs {package}: pip install 'dinov3[{package}]'")
