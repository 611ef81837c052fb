"""A task that is not pretraining gets everything the trainer has: resume, faults, signals, processes, report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dinov3.cli import main as dinov3
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main as pretrain
from tests.engine import regressor
from tests.faults.runs import Launcher, final_state, history, whole

MAIN = "tests.engine.regressor:main"
WORDS = [
    *("optim.epochs=1", "regression.epoch=12", "optim.lr=0.1", "optim.clip_grad=0"),
    *("train.log_every=1", "checkpointing.period=3", "train.device=cpu", "optim.weight_decay=0"),
]
BATCH = 8


def words(ranks: int = 1, dropout: float = 0.1) -> list[str]:
    """By default every step draws: what a resumed run draws is then a part of what must be equal."""
    return [*WORDS, f"train.batch_size_per_gpu={BATCH // ranks}", f"regression.dropout={dropout}"]


def run(runs: Launcher, out: Path, ranks: int = 1, dropout: float = 0.1, **options: Any) -> list[int]:
    return runs.run(out, ranks=ranks, main=MAIN, words=words(ranks, dropout), **options)


@pytest.fixture(scope="module")
def reference(runs: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    assert run(runs, out) == [0]
    return out


def test_it_learns_and_is_written_down_in_at_most_ninety_lines(reference: Path) -> None:
    losses = [row["mse_loss"] for row in read_rows(reference / "metrics.jsonl")]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert Path(regressor.__file__).read_text().count("\n") <= 90


@pytest.mark.parametrize("fault", ["step@7", "committed@6", "shards@9=spoil"])
def test_killed_at_any_point_it_goes_on_bit_for_bit(
    runs: Launcher, reference: Path, tmp_path: Path, fault: str
) -> None:
    out = tmp_path / "run"
    assert run(runs, out, fault=fault) == [-9]
    assert run(runs, out) == [0]
    assert history(out) == history(reference)
    assert final_state(out) == final_state(reference)


def test_sigterm_is_a_save_and_85(runs: Launcher, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(runs, out, fault="step@4=term") == [85]
    assert 4 < whole(out)[-1] < 7, "saved at the step it was at, not at the next period"
    assert run(runs, out) == [0]
    assert history(out) == history(reference)


def test_a_damaged_checkpoint_is_passed_over(runs: Launcher, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    (shard,) = (step_folders(out)[-1] / "state").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert run(runs, out) == [0]
    assert final_state(out) == final_state(reference)


def test_two_processes_learn_what_one_does(runs: Launcher, tmp_path: Path) -> None:
    out, alone = tmp_path / "run", tmp_path / "alone"
    assert run(runs, out, ranks=2, dropout=0) == [0, 0]
    assert run(runs, alone, dropout=0) == [0]
    ours, theirs = (read_tensors(step_folders(o)[-1] / "state", prefix="line.") for o in (out, alone))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in theirs)
    losses = [[row["mse_loss"] for row in read_rows(o / "metrics.jsonl")] for o in (out, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_its_fixed_key_is_fixed_and_an_unknown_one_is_named(
    runs: Launcher, reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference, tmp_path / "run")
    out = ["--output-dir", str(tmp_path / "run")]
    assert regressor.main([*out, *words(), "regression.width=5"]) == 78
    assert "regression.width: this run was started with 4, now it is 5" in capfd.readouterr().err
    assert regressor.main([*out, *words(), "regression.widht=5"]) == 78
    assert "did you mean regression.width?" in capfd.readouterr().err


def test_it_appears_in_the_report(reference: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert dinov3(["report", str(reference), "--out", str(page)]) == 0
    assert "mse_loss" in page.read_text()


def test_a_run_of_another_kind_is_named_as_one(
    reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference, tmp_path / "run")
    words = [
        "--output-dir",
        str(tmp_path / "run"),
        "student.arch=vit_small",
        "train.dataset_path=Synthetic:n=400:size=40",
    ]
    assert pretrain(words) == 78
    assert "is a run of another kind, or of a newer program (it has regression)" in capfd.readouterr().err
