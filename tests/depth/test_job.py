"""A depth run has everything the trainer has, learns, and leaves an estimator that scores what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dinov3.cli import main as dinov3
from dinov3.depth.estimator_file import load_estimator
from dinov3.depth.evaluate import read_results
from dinov3.system.rows import read_rows
from tests.depth import tiny
from tests.depth.test_bad_input import write_folder
from tests.faults.runs import Launcher, final_state

MAIN = "tests.depth.tiny:main"
TRAINED = {"model__frozen": "false", "optim__layerwise_decay": 0.8}


@pytest.mark.parametrize(
    "changes",
    [pytest.param({"model__head": "linear"}, marks=pytest.mark.nightly), TRAINED],
    ids=["linear, frozen", "dpt, trained"],
)
def test_killed_it_goes_on_bit_for_bit_with_the_same_selection_and_scores(
    runs: Launcher, at: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    words = tiny.words(at, **changes)
    assert runs.run(tmp_path / "whole", main=MAIN, words=words) == [0]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words, fault="step@4") == [-9]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words) == [0]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert final_state(killed) == final_state(whole)
    assert read_rows(killed / "evaluation.jsonl") == read_rows(whole / "evaluation.jsonl")
    assert read_results(killed / "results.json") == read_results(whole / "results.json")
    assert [p.name for p in (whole / "selected").iterdir()] == [p.name for p in (killed / "selected").iterdir()]


@pytest.mark.nightly
def test_two_processes_learn_what_one_does(runs: Launcher, at: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        words = tiny.words(at, ranks=ranks, model__dropout=0, **TRAINED)
        assert runs.run(tmp_path / str(ranks), ranks=ranks, main=MAIN, words=words) == [0] * ranks
    one, two = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("1", "2"))
    assert np.allclose([row["sig_loss"] for row in one], [row["sig_loss"] for row in two], rtol=1e-5, atol=1e-6)
    first, second = (read_rows(tmp_path / name / "evaluation.jsonl")[0] for name in ("1", "2"))
    assert first == second


def test_what_is_left_is_an_estimator_that_scores_what_the_run_says(runs: Launcher, at: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", write_folder(tmp_path / "data")
    words = tiny.words(
        at, train__dataset_path=data, train__high=10, optim__epochs=20, optim__lr=0.005, evaluation__period=20,
        checkpointing__period=100, augment__rotation=0, **TRAINED,
    )  # fmt: skip
    assert runs.run(run, main=MAIN, words=words) == [0]
    results, rows = read_results(run / "results.json"), read_rows(run / "evaluation.jsonl")
    best = min(rows, key=lambda row: row["val_rmse"])
    assert results["step"] == best["step"]
    assert results["scores"]["rmse"] == best["val_rmse"] < 0.7 * rows[0]["val_rmse"]  # it has seen which side is far
    assert (run / "predictions.png").read_bytes()[:4] == b"\x89PNG"
    out = tmp_path / "scores"
    assert dinov3(["finetune", "evaluate", str(run), "--data", str(data), "--out", str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["scores"] == results["scores"]
    assert load_estimator(run)[1].step == best["step"]
