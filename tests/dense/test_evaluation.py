from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.cli import main
from dinov3.dense import depth_command, segment_command
from dinov3.dense.matching import match_command
from tests.dense.conftest import Evaluate


@pytest.mark.parametrize("task", ["seg", "depth"])
def test_wrong_data_are_told_before_weights_are_read(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", str(tmp_path / "no_weights"), "--data", str(tmp_path / "no_data"), "--device", "cpu"]
    assert main(["eval", task, *words]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no_data" in error


@pytest.mark.parametrize(
    ("task", "module"),
    [
        ("seg", segment_command),
        ("depth", depth_command),
        ("match", match_command),
    ],
)
@pytest.mark.parametrize("error", [ValueError, FloatingPointError])
def test_features_that_cannot_be_fitted_are_one_line_and_no_row(
    task: str,
    module: object,
    error: type[Exception],
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise error("features are not finite")

    monkeypatch.setattr(module, "measured" if task == "match" else "evaluate", failing)
    assert evaluate(task, "Synthetic:n=10:size=32") == (78, {})
    assert capsys.readouterr().err == "error: features are not finite\n"
