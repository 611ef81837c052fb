"""A detection run has everything the trainer has, learns, and leaves a detector that scores what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.cli import main as dinov3
from dinov3.detect.detector_file import load_detector
from dinov3.detect.evaluate import read_results
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.weights.own import load_backbone
from tests.detect import tiny
from tests.faults.runs import Launcher, final_state

MAIN = "tests.detect.tiny:main"
TRAINED = {"model__frozen": "false", "optim__layerwise_decay": 0.8}


@pytest.mark.parametrize("changes", [pytest.param({}, marks=pytest.mark.nightly), TRAINED], ids=["frozen", "trained"])
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
        words = tiny.words(at, ranks=ranks, **TRAINED)
        assert runs.run(tmp_path / str(ranks), ranks=ranks, main=MAIN, words=words) == [0] * ranks
    one, two = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("1", "2"))
    assert len(one) == 8
    for name in ("class_loss", "box_loss", "centre_loss"):
        assert np.allclose([row[name] for row in one], [row[name] for row in two], rtol=1e-5, atol=1e-6)
    first, second = (read_rows(tmp_path / name / "evaluation.jsonl")[0] for name in ("1", "2"))
    assert first == second


def test_what_is_left_is_a_detector_that_scores_what_the_run_says(runs: Launcher, at: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = tiny.write_folder(tmp_path / "data", tiny.coco(20))
    words = tiny.words(
        at, train__dataset_path=data, optim__epochs=30, optim__lr=0.01, evaluation__period=40, augment__scale="[0.9,1.1]",
        checkpointing__period=100, **TRAINED,
    )  # fmt: skip
    assert runs.run(run, main=MAIN, words=words) == [0]
    results, rows = read_results(run / "results.json"), read_rows(run / "evaluation.jsonl")
    best = max(rows, key=lambda row: row["val_mAP"])
    assert results["step"] == best["step"]
    assert results["scores"]["mAP"] == best["val_mAP"]
    assert results["scores"]["mAP50"] > 0.5  # it has found dark and bright squares
    assert results["classes"] == ["dark", "bright"]
    assert (run / "predictions.png").read_bytes()[:4] == b"\x89PNG"
    detector, about = load_detector(run)
    assert about.step == best["step"]
    for name, tensor in load_backbone(run / "detector").state_dict().items():
        assert torch.equal(tensor, detector.backbone.state_dict()[name])
    last = step_folders(run)[-1]
    state, trained = read_tensors(last / "state", prefix=""), load_detector(last)[0]
    found = {f"{part}.{k}": v for part in ("head", "backbone") for k, v in getattr(trained, part).state_dict().items()}
    assert all(torch.equal(state[name], tensor) for name, tensor in found.items())
    out = tmp_path / "scores"
    assert dinov3(["finetune", "evaluate", str(run), "--data", str(data), "--out", str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["scores"] == results["scores"]
    assert (out / "predictions.png").is_file()


@pytest.mark.nightly
def test_a_head_is_where_the_next_run_begins(runs: Launcher, at: Path, tmp_path: Path) -> None:
    assert runs.run(tmp_path / "frozen", main=MAIN, words=tiny.words(at)) == [0]
    more = TRAINED | {"start__run": tmp_path / "frozen"}
    assert runs.run(tmp_path / "all", main=MAIN, words=tiny.words(at, **more)) == [0]
    end, begin = (read_rows(tmp_path / name / "evaluation.jsonl")[i] for name, i in (("frozen", -1), ("all", 0)))
    assert begin["val_mAP"] == end["val_mAP"]
