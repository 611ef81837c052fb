from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3.runs.folder import RunFolder
from dinov3.runs.scores import keep_scores, knn_of, scores_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two whole checkpoints and a torn one, and an export beside them."""
    folder = tmp_path / "run"
    for step in (2, 4):
        place = folder / "ckpt" / f"step-{step:08d}"
        (place / "state").mkdir(parents=True)
        files = ("backbone.safetensors", "train_state.json", "state/0.safetensors")
        for name in files:
            (place / name).write_bytes(b"x")
        manifest = {"format_version": 2, "files": {name: {"size": 1, "sha256": "0" * 64} for name in files}}
        (place / "manifest.json").write_text(json.dumps(manifest))
    torn = folder / "ckpt" / "step-00000006"
    torn.mkdir()
    (torn / "manifest.json").write_text("{")
    (folder / "exports").mkdir()
    (folder / "exports" / "backbone.pth").write_bytes(b"x")
    return folder


def report(accuracy: float, **more: object) -> dict[str, object]:
    scores = [{"k": 20, "temperature": 0.07, "accuracy": accuracy, "of_class": [1.0], **more}]
    return {"task": "knn", "train": "a", "test": "b", "pool": "cls", "scores": scores}


def test_the_last_score_of_a_kind_counts_and_says_of_which_checkpoint_it_is(run: Path) -> None:
    for weights, accuracy in ((run / "ckpt" / "step-00000002" / "backbone.safetensors", 0.25), (run, 0.5)):
        keep_scores(weights, report(accuracy, held_out={"0.1": 0.5}))
        assert len(scores_of(RunFolder(run))) == 1
    known = scores_of(RunFolder(run))
    assert known == {("knn", "b, from a, cls", "k 20, temperature 0.07"): ("step-00000004", "accuracy 50.00 %")}
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [row["checkpoint"] for row in rows] == ["step-00000002", "step-00000004"]


def test_words_of_a_score_are_settings_and_what_is_missing_a_dash(run: Path) -> None:
    scores = [{"head": "linear", "mIoU": 0.25, "mAcc": None}, {"head": "30-NN", "mIoU": 0.5}]
    keep_scores(run, {"task": "segmentation", "data": "d", "protocol": "small", "scores": scores})
    assert scores_of(RunFolder(run)) == {
        ("segmentation", "d, small", "head linear"): ("step-00000004", "mIoU 0.25, mAcc -"),
        ("segmentation", "d, small", "head 30-NN"): ("step-00000004", "mIoU 0.5"),
    }


def test_the_newest_knn_score_stands_for_a_run(run: Path) -> None:
    assert knn_of(RunFolder(run)) is None
    for accuracy in (0.25, 0.5):
        keep_scores(run, report(accuracy))
    several = [{"k": 10, "accuracy": 0.7}, {"k": 20, "accuracy": 0.6}, {"k": 200, "accuracy": 0.8}]
    keep_scores(run, {"task": "knn", "scores": several})
    keep_scores(run, {"task": "linear", "scores": [{"learning_rate": 0.1, "accuracy": 0.9}]})
    assert knn_of(RunFolder(run)) == 0.6
    assert scores_of(RunFolder(run))["linear", "None, from None, None", ""][1] == "learning_rate 0.1, accuracy 90.00 %"


def test_what_is_no_run_is_left_alone(run: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for weights in (run / "exports", run / "exports" / "backbone.pth", tmp_path, Path("facebook/dinov3")):
        keep_scores(weights, report(0.5))
    assert sorted(tmp_path.rglob("*")) == before
    assert scores_of(RunFolder(run)) == {}


def test_a_run_that_cannot_be_written_to_is_said_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "scores.jsonl").mkdir()
    keep_scores(run, report(0.5))
    said = capsys.readouterr().err
    assert said.startswith(f"{run / 'scores.jsonl'}: not kept with the run (")
    assert said.count("\n") == 1
