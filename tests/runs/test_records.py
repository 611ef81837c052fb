from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.runs import records
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records, open_records, refuse_missing_packages
from dinov3.runs.run_id import run_id
from dinov3.runs.sinks.csv_sink import CsvSink
from dinov3.system.rows import read_rows


class Recorder:
    """A sink that remembers, and fails when told to."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[Any] = []
        self.failing = failing

    def _call(self, name: str, *content: Any) -> None:
        if name == self.failing:
            raise OSError(28, "No space left on device")
        self.calls.append((name, *content))

    def train(self, row: dict[str, Any]) -> None:
        self._call("train", row["iteration"])

    def evaluation(self, row: dict[str, Any]) -> None:
        self._call("evaluation", row["step"])

    def picture(self, path: Path, step: int) -> None:
        self._call("picture", path.name, step)

    def close(self) -> None:
        self._call("close")


def test_everything_goes_to_the_files_and_to_every_sink(tmp_path: Path) -> None:
    sinks = [Recorder(), Recorder()]
    kept = Records(RunFolder(tmp_path), 0, lambda: sinks)
    kept.write({"iteration": 0})
    kept.evaluation({"step": 1})
    kept.picture(tmp_path / "pca.png", 1)
    kept.close()
    expected = [("train", 0), ("evaluation", 1), ("picture", "pca.png", 1), ("close",)]
    assert [s.calls for s in sinks] == [expected, expected]
    assert read_rows(tmp_path / "metrics.jsonl") == [{"iteration": 0}]
    assert read_rows(tmp_path / "evaluation.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("failing", ["train", "evaluation", "picture", "close"])
def test_a_sink_that_fails_is_switched_off_with_one_warning_and_nothing_else_changes(
    tmp_path: Path, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(failing), Recorder()
    kept = Records(RunFolder(tmp_path), 0, lambda: [bad, good])
    for step in range(3):
        kept.write({"iteration": step})
        kept.evaluation({"step": step})
        kept.picture(tmp_path / "pca.png", step)
    kept.close()
    assert len(good.calls) == 10
    assert caplog.messages == ["Recorder is off from here: OSError: [Errno 28] No space left on device"]
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 3


def test_closing_twice_closes_the_sinks_once(tmp_path: Path) -> None:
    sink = Recorder()
    kept = Records(RunFolder(tmp_path), 0, lambda: [sink])
    kept.close()
    kept.close()
    assert sink.calls == [("close",)]


def test_only_what_is_switched_on_writes(tmp_path: Path) -> None:
    cfg = Config()
    open_records(cfg, RunFolder(tmp_path), 0).close()
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    cfg.wandb.enabled, cfg.wandb.mode = True, "disabled"
    cfg.logging.csv = True
    assert [type(s) for s in open_records(cfg, RunFolder(tmp_path), 0)._sinks] == [CsvSink]
    assert not (tmp_path / "run_id.json").exists()


def test_the_id_of_a_run_is_made_once_and_kept(tmp_path: Path) -> None:
    first = run_id(RunFolder(tmp_path))
    assert run_id(RunFolder(tmp_path)) == first
    other = tmp_path / "other"
    other.mkdir()
    assert run_id(RunFolder(other)) != first


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config()
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: None)
    refuse_missing_packages(cfg)
    cfg.logging.tensorboard = True
    with pytest.raises(ConfigError, match=r"config: logging.tensorboard: needs tensorboard: pip install 'dinov3\[ten"):
        refuse_missing_packages(cfg)


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = [0.1, 1 / 3, 1e-300, 13.644179344177246]
    file = Records(RunFolder(tmp_path), resume_at=0)
    file.write({"iteration": 0, "values": values})
    file.close()
    assert read_rows(path)[0]["values"] == values


def test_steps_that_run_again_are_not_in_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Records(RunFolder(tmp_path), resume_at=0)
    for step in range(5):
        first.write({"iteration": step, "run": 1})
    first.close()
    second = Records(RunFolder(tmp_path), resume_at=3)
    for step in range(3, 6):
        second.write({"iteration": step, "run": 2})
    second.close()
    assert [(r["iteration"], r["run"]) for r in read_rows(path)] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1, "total_l')
    Records(RunFolder(tmp_path), resume_at=1).close()
    assert path.read_text() == '{"iteration": 0}\n'
