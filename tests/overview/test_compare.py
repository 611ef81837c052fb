from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.overview.compare import differences, names_of, panels_over, read_run
from tests.overview.test_runs import a_run

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        a_run(tmp_path / "slow", [3.0, 2.0], knn=[0.1, 0.3]),
        a_run(tmp_path / "fast", [3.0, 1.0], knn=[0.1, 0.45], lr=0.2),
    ]


def panels_in(page: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="panels">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    content: list[dict[str, object]] = json.loads(found[1])
    return content


def test_a_page_has_curves_scores_and_differences(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [{"k": 20, "accuracy": 0.625}]
    row = {"task": "knn", "train": "a", "test": "b", "pool": "cls", "scores": scores}
    (runs[1] / "scores.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "new" / "page.html"
    assert cli.main(["compare", *map(str, runs), "--out", str(out)]) == 0
    page = out.read_text()
    said = capsys.readouterr().out
    assert "10 → 45 % (+15)" in said
    assert "10 → 45 % (+15)" in page
    losses = panels_in(page)[0]["lines"]
    assert [(line["label"], line["x"], line["y"]) for line in losses] == [
        ("slow", [0, 1], [3.0, 2.0]),
        ("fast", [0, 1], [3.0, 1.0]),
    ]
    assert "<code>optim.lr</code></td><td>0.1</td><td>0.2</td>" in page
    assert "<td>b, from a, cls</td><td>k 20</td><td></td><td>accuracy 62.50 %</td>" in page
    assert "train.output_dir" not in page
    assert "hunter2" not in page
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', page) if not u.startswith("data:")]
    assert outside == []


def test_the_reference_comes_first(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["compare", *map(str, runs), "--reference", str(runs[1]), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("fast")
    assert "10 → 30 % (-15)" in lines[2]


def test_only_named_scripts_run_whatever_a_run_is_called(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / name, [1.0]) for name in ("a", "b")]
    (paths[0] / "metrics.jsonl").write_text(json.dumps({"iteration": 0, "total_loss": 1.0, f"{EVIL}_loss": 2.0}) + "\n")
    out = tmp_path / "page.html"
    assert cli.main(["compare", *map(str, paths), "--out", str(out)]) == 0
    page = out.read_text()
    assert "<script>alert" not in page
    assert page.count("<script") == 3
    assert len(re.findall(r"'sha256-[\w+/=]+'", page)) == 2


def test_figures_that_only_one_run_has_are_shown(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / "a", [1.0], knn=[0.5]), a_run(tmp_path / "b", [1.0])]
    found = panels_over([read_run(path, path.name) for path in paths])
    knn = next(panel for panel in found if "Accuracy" in panel.title)
    assert list(knn.lines) == ["a"]
    assert differences([read_run(path, path.name) for path in paths]) == {}


def test_a_run_has_one_colour_in_every_chart_also_in_those_that_others_lack(tmp_path: Path) -> None:
    paths = [a_run(tmp_path / "a", [1.0]), a_run(tmp_path / "b", [1.0, 2.0], knn=[0.5])]
    assert cli.main(["compare", *map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    colours: dict[str, set[str]] = {"a": set(), "b": set()}
    for panel in panels_in(page):
        for line in panel["lines"]:  # type: ignore[attr-defined]
            colours[line["label"]].add(line["colour"])
    assert [len(found) for found in colours.values()] == [1, 1]
    assert colours["a"] != colours["b"]
    pictures = [base64.b64decode(text).decode() for text in re.findall(r"svg\+xml;base64,([\w+/=]+)", page)]
    (alone,) = [picture for picture in pictures if "Accuracy" in picture]
    assert colours["b"].pop() in alone


def test_a_run_that_only_eval_has_measured_has_that_score_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [a_run(tmp_path / "a", [1.0], knn=[0.5]), a_run(tmp_path / "b", [1.0])]
    row = {"task": "knn", "train": "a", "test": "b", "pool": "cls", "scores": [{"k": 20, "accuracy": 0.3404255}]}
    (paths[1] / "scores.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.main(["compare", *map(str, paths), "--out", str(tmp_path / "page.html")]) == 0
    assert "34.04 % (eval)" in capsys.readouterr().out.splitlines()[2]
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert [
        said for line in capsys.readouterr().out.splitlines() for said in ("50.0", "34.0 (eval)") if said in line
    ] == ["50.0", "34.0 (eval)"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert names_of([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]


def test_one_run_is_one_line(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([str(runs[0])], [str(runs[0]), str(runs[0])], [str(runs[0]), str(tmp_path / "nowhere")]):
        assert cli.main(["compare", *words, "--out", str(tmp_path / "page.html")]) == 78
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "page.html").exists()
