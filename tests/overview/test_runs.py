from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.dump import to_yaml
from dinov3.config.load import load_config
from dinov3.overview.command import TOP, watch
from dinov3.overview.status import find_runs, since, status_of
from dinov3.runs.lock import RunLock


def a_run(path: Path, losses: list[float], *, steps: int = 4, knn: list[float] | None = None, lr: float = 0.1) -> Path:
    """A run folder as training leaves it, without weights."""
    path.mkdir(parents=True)
    config = {
        "train": {"OFFICIAL_EPOCH_LENGTH": steps, "max_steps": None, "output_dir": str(path)},
        "optim": {"epochs": 1, "lr": lr},
        "student": {"arch": "vit_small", "patch_size": 8, "embed_dim": 96, "depth": 3},
        "wandb": {"api_key": "hunter2"},
    }
    (path / "config.json").write_text(json.dumps(config))
    rows = [{"iteration": i, "total_loss": loss, "images_per_second": 10.0 + i} for i, loss in enumerate(losses)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = [{"step": i, "knn_accuracy": value} for i, value in enumerate(knn or [])]
    (path / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured))
    return path


def test_a_table_says_where_each_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "done", [3.0, 2.0, 1.5, 1.25], knn=[0.1, 0.5])
    a_run(tmp_path / "deep" / "half", [3.0, 2.0])
    with RunLock(a_run(tmp_path / "busy", [3.0])):
        assert cli.main(["runs", str(tmp_path)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "model", "state", "step", "loss", "k-NN", "%", "images/s", "written"]
    words = [line.split() for line in lines]
    model = ["vit_small/8", "96x3"]
    assert words[0][:7] == ["busy", *model, "trains", "1", "of", "4"]
    assert words[1][:8] == ["deep/half", *model, "stopped", "2", "of", "4", "2.0000"]
    assert words[2][:10] == ["done", *model, "finished", "4", "of", "4", "1.2500", "50.0", "13.0"]


def test_a_run_that_goes_on_for_longer_has_its_new_length(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [3.0, 2.0, 1.5, 1.25])
    (run / "config_history").mkdir()
    (run / "config_history" / "0001.yaml").write_text(
        to_yaml(load_config(None, ["optim.epochs=200", "train.OFFICIAL_EPOCH_LENGTH=4"]))
    )
    assert (status_of(run).state, status_of(run).steps) == ("stopped", 800)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [1.0])
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert status_of(run).state == "stopped"
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_parts_of_a_run_and_what_was_put_aside_are_not_runs(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [1.0])
    a_run(run / "before-1", [1.0])
    a_run(run / "ckpt" / "step-00000001", [])
    a_run(run / "stage-1-pretrain", [1.0])
    assert find_runs(tmp_path) == [run, run / "stage-1-pretrain"]


def test_watching_shows_it_again_until_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_run(tmp_path / "run", [1.0])
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        a_run(tmp_path / f"more-{len(pauses)}", [1.0])
        if len(pauses) == 2:
            raise KeyboardInterrupt

    assert watch(tmp_path, 3.0, pause) == 0
    out = capsys.readouterr().out
    assert pauses == [3.0, 3.0]
    assert out.count("images/s") == 2
    assert out.count("more-1") == 1
    assert TOP not in out, "a file is no terminal"


@pytest.mark.parametrize("words", [["nowhere"], ["."], [".", "--watch", "--every", "0"]])
def test_what_is_no_folder_of_runs_is_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs", *words]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_ages_are_short() -> None:
    import time

    now = time.time()
    assert [since(now - s) for s in (0, 65, 7300, 200_000)] == ["0 s", "1 min", "2 h", "2 d"]


def test_a_run_whose_epoch_depends_on_its_data_says_in_its_checkpoints_how_long_it_is(tmp_path: Path) -> None:
    run = a_run(tmp_path / "tuned", [3.0, 2.0, 1.0])
    (run / "config.json").write_text(json.dumps({"task": "classify", "train": {}, "optim": {"epochs": 3}}))
    assert (status_of(run).state, status_of(run).steps, status_of(run).model) == ("stopped", None, "classify")
    for step, state in ((2, '{"until": 3}'), (3, "{torn")):
        (run / "ckpt" / f"step-{step:08d}").mkdir(parents=True)
        (run / "ckpt" / f"step-{step:08d}" / "train_state.json").write_text(state)
    assert (status_of(run).state, status_of(run).steps) == ("finished", 3)


def test_a_lock_that_is_a_link_and_a_downloaded_model_hide_no_other_run(tmp_path: Path) -> None:
    for name in ("run", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").touch()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "model" / "config.json")
    assert [path.name for path in find_runs(tmp_path)] == ["run"]
    assert status_of(tmp_path / "run").state == "begun"
