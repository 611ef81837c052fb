"""Finished runs side by side: one table, one page, and nothing of one that is not finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinov3.cli import main as dinov3
from dinov3.finetune.predictions import Predicted, write_predictions
from dinov3.finetune.results import FORMAT, by_class_of, finite, scores, shown
from dinov3.system.files import write_json


def finished(folder: Path, seed: int, classes: int = 2) -> Path:
    rng = np.random.default_rng(seed)
    y = np.arange(40) % classes
    p = rng.dirichlet(np.ones(classes), 40) if classes > 2 else np.clip(0.3 * y + rng.uniform(0, 0.7, 40), 0, 1)
    folder.mkdir()
    write_predictions(folder / "predictions.csv", folder.name, "test", Predicted(p, y, np.arange(40)))
    one = {"data": "d", "images": 40, "left_out": [], "scores": scores(p, y, resamples=50, seed=0)}
    about = {"run": folder.name, "label": "<b>LoRA", "step": 7, "parameters": 1_500_000, "tta": True}
    content = {"format": FORMAT, **about, "classes": classes, "sets": {"test": one}}
    write_json(folder / "results.json", content)
    return folder


def test_the_table_has_a_row_a_run_and_the_page_its_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [finished(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    out = tmp_path / "page.html"
    assert dinov3(["finetune", "report", *map(str, runs), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "test, with 95 % intervals"
    assert [line.split()[0] for line in lines[1:4]] == ["run", "first", "second"]
    assert "1.50 M" in lines[2]
    page = out.read_text()
    assert page.count("<tr>") == 3
    assert "&lt;b&gt;LoRA" in page
    assert "data:image/png;base64," in page


def test_many_classes_have_no_curves_and_several_runs_of_both_kinds_fit_one_page(tmp_path: Path) -> None:
    runs = [finished(tmp_path / "two", 0), finished(tmp_path / "ten", 1, classes=10)]
    assert dinov3(["finetune", "report", *map(str, runs), "--out", str(tmp_path / "page.html")]) == 0


def test_a_run_that_is_not_finished_is_named_and_no_page_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    out = tmp_path / "page.html"
    assert dinov3(["finetune", "report", str(tmp_path / "run"), "--out", str(out)]) == 78
    assert "results.json: cannot be read" in capsys.readouterr().err
    assert not out.exists()
    (tmp_path / "run" / "results.json").write_text("{}")
    assert dinov3(["finetune", "report", str(tmp_path / "run")]) == 78
    assert dinov3(["finetune", "report"]) == 2


def test_what_is_not_defined_is_said_and_never_a_nan_in_json() -> None:
    found = scores(np.array([0.2, 0.4]), np.array([0, 0]), resamples=5, seed=0)
    assert found["AUROC"] == {"value": None, "low": None, "high": None}
    assert shown(found["AUROC"]) == "not defined"
    assert finite(float("inf")) is None
    assert shown({"value": 0.5, "low": None, "high": None}) == "0.5000"


def test_dense_heads_stand_in_a_table_of_their_task_with_their_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kind, found in (
        ("a", "segmentation", {"mIoU": 0.25, "aAcc": 0.5}),
        ("b", "segmentation", {"mIoU": 0.5, "aAcc": None}),
        ("c", "detection", {"mAP": 0.75, "mAP50": 0.875}),
    ):
        (tmp_path / name).mkdir()
        content = {"format": f"dinov3-{kind}-results", "label": "<i>linear", "weights": "w", "data": "d", "step": 7}
        write_json(tmp_path / name / "results.json", {**content, "images": 3, "parameters": 1000, "scores": found})
    (tmp_path / "a" / "predictions.png").write_bytes(b"png")
    runs = [str(tmp_path / name) for name in ("a", "c", "b")]
    both = str(finished(tmp_path / "two", 0))
    assert dinov3(["finetune", "report", both, *runs, "--out", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [lines.index(f"{title}, validation images") for title in ("segmentation", "detection")]
    assert lines[titles[0] + 2].split()[:6] == ["a", "<i>linear", "7", "3", "0.00", "M"]
    assert "not defined" in lines[titles[0] + 3]
    assert "0.8750" in lines[titles[1] + 2]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h2>") == 3
    assert page.count('alt="predictions"') == 1
    assert "<i>" not in page


def test_every_class_has_its_count_and_of_many_the_worst_are_named() -> None:
    def lines(rows: Any, names: Any = None) -> list[str]:
        return by_class_of({"sets": {"test": {"confusion": rows}}, "names": names}, "test")

    assert lines([[38, 2], [30, 0]], ["normal", "tumour"]) == ["test, recognised: normal 38 of 40, tumour 0 of 30"]
    assert lines([[3, 1], [0, 0]]) == ["test, recognised: 0 3 of 4"]
    many = np.diag(np.arange(1, 41)) + np.eye(40, k=1, dtype=int)
    (said,) = lines(many.tolist())
    assert said.startswith("test, recognised, the 12 worst of 40 classes: 0 1 of 2, 1 2 of 3, ")
    assert said.count(" of ") == 13
    assert lines([[1, 2]]) == lines(None) == lines([["a", "b"], [0, 0]]) == []
    assert lines([[1, 0], [0, 1]], ["a\x1b[31m", "b"]) == ["test, recognised: a\\x1b[31m 1 of 1, b 1 of 1"]
