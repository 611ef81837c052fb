"""A segmentation run has everything the trainer has, learns, and leaves a segmenter that scores what the run says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.cli import main as dinov3
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.segment.evaluate import read_results
from dinov3.segment.segmenter_file import load_segmenter
from dinov3.system.rows import read_rows
from dinov3.weights.own import load_backbone
from tests.faults.runs import Launcher, final_state
from tests.finetune.tiny import write_weights
from tests.segment import tiny

MAIN = "tests.segment.tiny:main"
HEADS = {
    "linear": {"model__head": "linear", "model__frozen": "false", "optim__layerwise_decay": 0.8},
    "masks behind": {},
    "masks inside": {"model__frozen": "false", "optim__backbone_lr": 1e-4},
}


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("masks inside", "step@4"),
        *(pytest.param(head, "step@4", marks=pytest.mark.nightly) for head in HEADS if head != "masks inside"),
        pytest.param("masks inside", "committed@3", marks=pytest.mark.nightly),
    ],
)
def test_killed_it_goes_on_bit_for_bit_with_the_same_selection_and_scores(
    runs: Launcher, at: Path, tmp_path: Path, head: str, fault: str
) -> None:
    words = tiny.words(at, **HEADS[head])
    assert runs.run(tmp_path / "whole", main=MAIN, words=words) == [0]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words, fault=fault) == [-9]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words) == [0]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert final_state(killed) == final_state(whole)
    assert read_rows(killed / "evaluation.jsonl") == read_rows(whole / "evaluation.jsonl")
    assert read_results(killed / "results.json") == read_results(whole / "results.json")
    assert [p.name for p in (whole / "selected").iterdir()] == [p.name for p in (killed / "selected").iterdir()]


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=() if head == "masks behind" else pytest.mark.nightly) for head in HEADS]
)
def test_two_processes_learn_what_one_does(runs: Launcher, at: Path, tmp_path: Path, head: str) -> None:
    changes = HEADS[head] | ({"model__dropout": 0} if head == "linear" else {})
    for ranks in (1, 2):
        words = tiny.words(at, ranks=ranks, **changes)
        assert runs.run(tmp_path / str(ranks), ranks=ranks, main=MAIN, words=words) == [0] * ranks
    one, two = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("1", "2"))
    assert len(one) == 8
    for name in (key for key in one[0] if key.endswith("_loss")):
        assert np.allclose([row[name] for row in one], [row[name] for row in two], rtol=1e-6, atol=1e-6)
    first, second = (read_rows(tmp_path / name / "evaluation.jsonl")[0] for name in ("1", "2"))
    assert first == second  # whole numbers, counted by one process or by two
    weights = [read_tensors(step_folders(tmp_path / name)[-1] / "state", prefix="") for name in ("1", "2")]
    for name, tensor in weights[0].items():
        if tensor.is_floating_point() and "optim" not in name:
            assert torch.allclose(tensor, weights[1][name], rtol=0, atol=1e-5), name


def test_parts_of_a_step_are_one_batch(runs: Launcher, at: Path, tmp_path: Path) -> None:
    parts = tiny.words(at, train__batch_size_per_gpu=2, train__gradient_accumulation_steps=2)
    for name, words in (("whole", tiny.words(at)), ("parts", parts)):
        assert runs.run(tmp_path / name, main=MAIN, words=words) == [0]
    one, two = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert np.allclose([r["total_loss"] for r in one], [r["total_loss"] for r in two], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", [pytest.param("linear", marks=pytest.mark.nightly), "masks inside"])
def test_it_learns_the_landscapes(runs: Launcher, tmp_path: Path, head: str) -> None:
    write_weights(tmp_path / "weights", patch_size=4, embed_dim=32)
    changes = HEADS[head] | {"optim__lr": 0.01 if head == "linear" else 0.003, "optim__backbone_lr": 0.003}
    words = tiny.words(
        tmp_path,
        train__dataset_path="Synthetic:n=40:size=32",
        train__batch_size_per_gpu=8,
        augment__crop=32,
        augment__scale="[0.8, 1.2]",
        optim__epochs=15,
        optim__warmup_steps=5,
        evaluation__period=60,
        checkpointing__period=100,
        **changes,
    )
    assert runs.run(tmp_path / "run", main=MAIN, words=words) == [0]
    rows = read_rows(tmp_path / "run" / "evaluation.jsonl")
    assert rows[-1]["val_mIoU"] > rows[0]["val_mIoU"] + 0.07
    assert rows[-1]["val_aAcc"] > 0.6
    losses = [row["total_loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_what_is_left_is_a_segmenter_that_scores_what_the_run_says(
    runs: Launcher, at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert runs.run(run, main=MAIN, words=tiny.words(at, **HEADS["masks inside"])) == [0]
    results, rows = read_results(run / "results.json"), read_rows(run / "evaluation.jsonl")
    best = max(rows, key=lambda row: row["val_mIoU"])
    assert results["step"] == best["step"]
    assert results["scores"]["mIoU"] == best["val_mIoU"]
    assert (run / "predictions.png").read_bytes()[:4] == b"\x89PNG"
    segmenter, about = load_segmenter(run)
    assert (about.classes, about.crop, about.step) == (15, 24, best["step"])
    for name, tensor in load_backbone(run / "segmenter").state_dict().items():
        assert torch.equal(tensor, segmenter.backbone.state_dict()[name])
    last = step_folders(run)[-1]
    state, trained = read_tensors(last / "state", prefix=""), load_segmenter(last)[0]
    found = {f"{part}.{k}": v for part in ("head", "backbone") for k, v in getattr(trained, part).state_dict().items()}
    assert found.keys() - state.keys() == set()
    assert all(torch.equal(state[name], tensor) for name, tensor in found.items())
    assert dinov3(["finetune", "evaluate", str(run), "--data", tiny.DATA, "--out", str(tmp_path / "scores")]) == 0
    again = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert again["scores"] == results["scores"]
    words = ["finetune", "evaluate", str(run), "--data", tiny.DATA, "--out", str(tmp_path / "other"), "--backbone"]
    for backbone, doubted in ((run / "segmenter", False), (write_weights(tmp_path / "stranger", seed=5), True)):
        capsys.readouterr()
        assert dinov3([*words, str(backbone)]) == 0
        assert ("is it a copy of this head's backbone?" in capsys.readouterr().out) == doubted
    assert runs.run(run, main=MAIN, words=tiny.words(at, **HEADS["masks inside"])) == [0]  # finished: nothing changes
    assert read_results(run / "results.json") == results


def test_a_head_is_where_the_next_run_begins(runs: Launcher, at: Path, tmp_path: Path) -> None:
    first = {"model__head": "linear"}
    assert runs.run(tmp_path / "frozen", main=MAIN, words=tiny.words(at, **first)) == [0]
    more = first | {"model__frozen": "false", "start__run": tmp_path / "frozen"}
    assert runs.run(tmp_path / "all", main=MAIN, words=tiny.words(at, **more)) == [0]
    end, begin = (read_rows(tmp_path / name / "evaluation.jsonl")[i] for name, i in (("frozen", -1), ("all", 0)))
    assert begin["val_mIoU"] == end["val_mIoU"]
