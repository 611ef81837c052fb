"""Stages follow one another with one command, and nothing shows that a run was interrupted in the middle."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dinov3.cli import main as cli
from dinov3.config.load import load_stages
from dinov3.engine import trainer
from dinov3.engine.life import _with_beginning
from dinov3.engine.stages.plan import plan_stages
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.lock import RunLock
from dinov3.runs.stage_record import read_stages, update_stage
from dinov3.runs.start import Start
from dinov3.runs.step_folders import CheckpointError, step_folders
from dinov3.train.command import main
from dinov3.train.job import PretrainingJob
from dinov3.train.model import build_model
from dinov3.weights.own import load_backbone
from tests.pictures.test_run_page import Balance
from tests.train.test_run import assert_identical, numbers
from tests.train.three_stages import FOLDERS, STEPS, command, write
from tests.train.tiny import OVERRIDES


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "three.yaml")


@pytest.fixture(scope="module")
def reference(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of all three."""
    out = tmp_path_factory.mktemp("reference")
    assert main(command(file, out)) == 0
    return out


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def state(folder: Path, step: int, prefix: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "ckpt" / f"step-{step:08d}" / "state", prefix=prefix)


def assert_same_stages(out: Path, reference: Path) -> None:
    for folder in FOLDERS:
        assert_identical(out / folder, reference / folder)
    assert read_stages(out) == read_stages(reference)


def interrupt(monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    """SIGTERM at the beginning of a step of a stage."""
    real = trainer.train_step
    source = {"pretrain": None, "gram": "init", "high_res": "path"}[stage]

    def interrupted(task: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == step and task.model.cfg.gram.source == source:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(task, *args, **kwargs)

    monkeypatch.setattr(trainer, "train_step", interrupted)


def test_every_stage_has_its_own_length_and_schedules(reference: Path) -> None:
    rows = [numbers(reference / folder) for folder in FOLDERS]
    assert [[row["iteration"] for row in stage] for stage in rows] == [list(range(steps)) for steps in STEPS]
    assert [stage[0]["lr"] for stage in rows] == pytest.approx(
        [1e-3 * 4 * (8 / 1024) ** 0.5, 1e-4 * 4 * (8 / 1024) ** 0.5, 1e-3 * 4 * (8 / 1024) ** 0.5]
    )
    assert ["gram_loss" in stage[0] for stage in rows] == [False, True, True]
    assert [(s.name, s.steps, s.finished, s.began_from) for s in read_stages(reference)] == [
        ("pretrain", 4, True, None),
        ("gram", 8, True, "stage-1-pretrain/ckpt/step-00000004"),
        ("high_res", 4, True, "stage-2-gram/ckpt/step-00000008"),
    ]


def test_the_data_goes_on_where_the_stage_before_stopped(reference: Path) -> None:
    seen = [row["samples"] for folder in FOLDERS for row in numbers(reference / folder)]
    assert seen == [8 * (i + 1) for i in range(sum(STEPS))]


def test_a_stage_begins_with_student_ema_and_heads_of_the_one_before(
    file: Path, reference: Path, tmp_path: Path
) -> None:
    """The learning rate of the first step is 0, so the student after it is the student before it."""
    still = [
        "schedules.lr={start: 0, peak: 0, end: 1e-9, warmup_epochs: 1}",
        "schedules.weight_decay={start: 0, peak: 0, end: 0}",
    ]
    still += [
        "schedules.momentum={start: 1, peak: 1, end: 1}",
        "schedules.teacher_temp={start: 0.07, peak: 0.07, end: 0.07}",
    ]
    shutil.copytree(reference / FOLDERS[0], tmp_path / FOLDERS[0])
    override = [f"stage.gram.{text}" for text in still]
    assert main(command(file, tmp_path, "stages=[pretrain, gram]", "stage.gram.train.max_steps=1", *override)) == 0
    for prefix in ("student.", "model_ema."):
        before, after = state(tmp_path / FOLDERS[0], 4, prefix), state(tmp_path / FOLDERS[1], 1, prefix)
        assert {name.split(".")[0] for name in after} == {"backbone", "dino_head", "ibot_head"}
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in after)
    gram = state(tmp_path / FOLDERS[1], 1, "gram_teacher.")
    ema = state(tmp_path / FOLDERS[0], 4, "model_ema.")
    assert all(torch.equal(gram[name], ema[name]) for name in gram), "gram.source: init is what the stage starts from"
    moments = state(tmp_path / FOLDERS[1], 1, "optimizer.state.")
    assert {float(moments[name]) for name in moments if name.endswith(".step")} == {1.0}, "moments start afresh"


def test_moments_go_on_when_asked(file: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference / FOLDERS[0], tmp_path / FOLDERS[0])
    options = ["stages=[pretrain, gram]", "stage.gram.train.max_steps=1", "stage.gram.start.optimizer=true"]
    assert main(command(file, tmp_path, *options)) == 0
    moments = state(tmp_path / FOLDERS[1], 1, "optimizer.state.")
    assert {float(moments[name]) for name in moments if name.endswith(".step")} == {5.0}


def test_the_student_can_start_as_the_ema(file: Path, reference: Path) -> None:
    log = (reference / FOLDERS[2] / "run.log").read_text()
    assert "the EMA in student and EMA" in log
    plan = plan_stages(load_stages(file), reference, PretrainingJob, resume=True)
    start = _with_beginning(plan[2].job, Start())
    model, _ = build_model(plan[2].cfg, torch.device("cpu"), start)
    ema = state(reference / FOLDERS[1], 8, "model_ema.")
    for module in (model.student, model.model_ema):
        assert all(torch.equal(tensor, ema[name]) for name, tensor in module.state_dict().items())


def test_a_run_stopped_by_sigterm_in_its_second_stage_continues_bit_for_bit(
    file: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, "gram", 4)
        assert main(command(file, tmp_path)) == 85
    assert step_folders(tmp_path / FOLDERS[1])[-1].name == "step-00000006", "the step after the signal sees it"
    assert main(command(file, tmp_path)) == 0
    assert_same_stages(tmp_path, reference)


def test_a_signal_in_the_last_step_of_a_stage_stops_the_next_one(
    file: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, "pretrain", 3)
        assert main(command(file, tmp_path)) == 85
    assert [s.finished for s in read_stages(tmp_path)] == [True, False, False]
    assert step_folders(tmp_path / FOLDERS[1])[-1].name == "step-00000001"
    assert not (tmp_path / FOLDERS[2]).exists()
    assert main(command(file, tmp_path)) == 0
    assert_same_stages(tmp_path, reference)


def test_a_finished_run_says_so_and_changes_nothing(
    file: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*")}
    assert main(command(file, reference, "stage.gram.optim.lr=5e-4")) == 0
    printed = capsys.readouterr().out
    assert "stage 1 of 3: pretrain: finished at step 4\n" in printed
    assert "stage 2 of 3: gram: finished at step 8; changed since, without effect on it: optim.lr\n" in printed
    assert {p: p.stat().st_mtime_ns for p in reference.rglob("*")} == before


def test_what_a_kill_left_in_any_stage_of_a_finished_run_is_removed(file: Path, reference: Path, copy: Path) -> None:
    left = [copy / folder / "ckpt" / ".trash-step-00000001" for folder in FOLDERS]
    for folder in left:
        folder.mkdir()
    assert main(command(file, copy)) == 0
    assert not any(folder.exists() for folder in left)
    assert_same_stages(copy, reference)


def test_the_pictures_of_the_last_stage_that_has_begun_are_drawn_when_a_kill_took_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["stages=[pretrain, gram]", "evaluation.pictures=true"]
    assert main(command(file, tmp_path, "stages=[pretrain]", *drawn[1:])) == 0
    picture = tmp_path / FOLDERS[0] / "pca.png"
    expected = picture.read_bytes()
    picture.unlink()
    assert main(command(file, tmp_path, *drawn, "stage.gram.train.max_steps=1")) == 0
    assert picture.read_bytes() == expected
    assert [s.finished for s in read_stages(tmp_path)] == [True, True]
    picture.unlink()
    capsys.readouterr()
    assert main(command(file, tmp_path, *drawn, "stage.gram.train.max_steps=1")) == 0
    assert "stage 1 of 2: pretrain: finished at step 4\n" in capsys.readouterr().out
    assert not picture.exists(), "the next stage has begun: this one is over"


def test_the_backbone_of_the_run_is_that_of_the_last_finished_stage(
    file: Path, reference: Path, tmp_path: Path
) -> None:
    last = load_backbone(reference / FOLDERS[2]).state_dict()
    assert all(torch.equal(a, last[name]) for name, a in load_backbone(reference).state_dict().items())
    assert cli(["export", str(reference), "--out", str(tmp_path / "last.pth")]) == 0
    loaded = torch.load(tmp_path / "last.pth", weights_only=True)
    assert all(torch.equal(loaded[name], last[name]) for name in last)
    assert f"| made from | {reference.name}, step " in (tmp_path / "last.pth.md").read_text()
    shutil.copytree(reference / FOLDERS[0], tmp_path / "half" / FOLDERS[0])
    shutil.copytree(reference / FOLDERS[1], tmp_path / "half" / FOLDERS[1])
    text = (reference / "stages.json").read_text()
    head, _, tail = text.rpartition('"finished": true')
    (tmp_path / "half" / "stages.json").write_text(f'{head}"finished": false{tail}')
    second = load_backbone(reference / FOLDERS[1]).state_dict()
    assert all(torch.equal(a, second[name]) for name, a in load_backbone(tmp_path / "half").state_dict().items())


def test_the_report_of_a_run_with_stages_has_those_that_have_begun_in_their_order(copy: Path) -> None:
    update_stage(copy, "gram", finished=False)
    update_stage(copy, "high_res", finished=False)
    shutil.rmtree(copy / FOLDERS[2])
    assert cli(["report", str(copy)]) == 0
    content = (copy / "report.html").read_text()
    parser = Balance()
    parser.feed(content)
    assert parser.open == []
    cells = re.findall(
        r"<tr><td>(?:<a href=\"#([^\"]+)\">)?(\w+)(?:</a>)?</td><td>([^<]*)</td><td>([^<]*)</td>", content
    )
    assert cells[:3] == [
        (FOLDERS[0], "pretrain", "finished 4 of 4", ""),
        (FOLDERS[1], "gram", "at step 8 of 8", f"{FOLDERS[0]}/ckpt/step-00000004"),
        ("", "high_res", "not begun", f"{FOLDERS[1]}/ckpt/step-00000008"),
    ]
    assert re.findall(r"<hr id=\"([^\"]+)\"><h1>([^<]+)</h1>", content) == [(f, f) for f in FOLDERS[:2]]
    assert content.count("<h2>Curves</h2>") == 2


def test_a_run_with_stages_that_cannot_be_reported_is_one_line(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(reference / "stages.json", tmp_path)
    assert cli(["report", str(tmp_path)]) == 78
    assert capsys.readouterr().err == f"error: {tmp_path}: none of its stages has trained a step yet\n"
    (tmp_path / "stages.json").write_text("{}")
    assert cli(["report", str(tmp_path)]) == 78
    assert "stages.json: not the record of a run with stages" in capsys.readouterr().err


def test_every_stage_has_a_name_of_its_own_in_weights_and_biases(file: Path, tmp_path: Path) -> None:
    plan = plan_stages(load_stages(file), tmp_path / "run", PretrainingJob, resume=True)
    assert [stage.cfg.wandb.name for stage in plan] == ["run-pretrain", "run-gram", "run-high_res"]
    plan = plan_stages(load_stages(file, ["wandb.name=mine"]), tmp_path / "run", PretrainingJob, resume=True)
    assert [stage.cfg.wandb.name for stage in plan] == ["mine-pretrain", "mine-gram", "mine-high_res"]


def test_a_run_without_a_finished_stage_has_no_backbone(tmp_path: Path) -> None:
    entry = '{"name": "a", "folder": "stage-1-a", "steps": 4, "finished": false, "began_from": null}'
    (tmp_path / "stages.json").write_text(f'{{"format": "dinov3-stages", "stages": [{entry}]}}')
    with pytest.raises(CheckpointError, match=r"no stage is finished yet; give the folder of one"):
        load_backbone(tmp_path)
    (tmp_path / "stages.json").write_text(entry)
    with pytest.raises(CheckpointError, match=r"stages\.json: not the record of a run with stages"):
        load_backbone(tmp_path)


# (arguments, what must stand in the one line)
REFUSED = {
    "a file the last stage needs": (
        ["stage.high_res.gram.ckpt=/no/file"],
        "stage high_res: gram.ckpt: /no/file: no such file",
    ),
    "data of the last stage": (["stage.high_res.train.dataset_path=/no/data"], "stage high_res: /no/data"),
    "schedules of the second": (["stage.gram.optim.warmup_epochs=3"], "stage gram: optim.warmup_epochs: is 3"),
    "a head that does not fit": (
        ["stage.gram.dino.head_n_prototypes=32"],
        "stage gram: start.run: cannot begin from pretrain: 1 tensor(s) differ, first dino_head.last_layer.weight: (64, 32) "
        "there, (32, 32) here; changed: dino.head_n_prototypes 64 -> 32",
    ),
    "another device": (
        ["stage.gram.train.device=cuda"],
        "stage gram: train.device: is cuda, that of the first stage auto",
    ),
    "adapters that would be lost": (
        ["stage.pretrain.lora.enabled=true"],
        "stage gram: start.student: pretrain trains LoRA adapters: set it to ema, which has them merged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_stage_is_checked_before_the_first_one_starts(
    file: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options, expected = REFUSED[name]
    assert main(command(file, tmp_path / "run", *options)) == 78
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_that_is_made_longer_does_not_leave_the_later_ones_as_they_are(
    file: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(file, reference, "stage.pretrain.optim.epochs=2")) == 78
    error = capsys.readouterr().err
    assert (
        "stage gram: began from pretrain's step-00000004, but pretrain now ends at 8 steps: put the old length back"
        in error
    )
    assert f"or rename {reference / FOLDERS[1]} so that it starts again" in error


def test_a_stage_added_at_the_end_starts_from_the_last(file: Path, copy: Path) -> None:
    more = ["stages=[pretrain, gram, high_res, last]", "stage.last.optim.epochs=1"]
    assert main(command(file, copy, *more)) == 0
    assert [s.began_from for s in read_stages(copy)][-1] == "stage-3-high_res/ckpt/step-00000004"
    assert numbers(copy / "stage-4-last")[0]["samples"] == 8 * (sum(STEPS) + 1)


def test_a_stage_that_has_begun_cannot_be_left_out(file: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(file, copy, "stages=[pretrain, high_res]")) == 78
    assert "stage-2-gram has begun in" in capsys.readouterr().err


def test_resume_from_a_stage_runs_the_later_ones_again(file: Path, reference: Path, copy: Path) -> None:
    earlier = copy / FOLDERS[1] / "ckpt" / "step-00000003"
    options = ["--resume-from", str(earlier)]
    assert main(command(file, copy, *options)) == 0
    assert (copy / "before-1" / FOLDERS[2] / "ckpt").is_dir()
    assert_same_stages(copy, reference)
    assert main(command(file, copy, *options)) == 0, "the same command again has nothing to do"
    assert not (copy / "before-2").exists()


def test_resume_from_a_checkpoint_of_another_run_is_refused(
    file: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = reference / FOLDERS[1] / "ckpt" / "step-00000008"
    assert main(command(file, tmp_path / "run", "--resume-from", str(foreign))) == 78
    assert "is in no stage of" in capsys.readouterr().err


def test_no_resume_moves_all_stages_aside(file: Path, copy: Path) -> None:
    assert main(command(file, copy, "--no-resume", "train.max_steps=1")) == 0
    assert sorted(p.name for p in (copy / "before-1").iterdir()) == [*FOLDERS, "stages.json"]
    assert [len(numbers(copy / folder)) for folder in FOLDERS] == [1, 1, 1]


def test_a_folder_is_of_one_kind(
    file: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output-dir", str(reference), *[f"{k}={v}" for k, v in OVERRIDES.items()]]) == 78
    assert "holds a run with stages" in capsys.readouterr().err
    (tmp_path / "ckpt").mkdir()
    assert main(command(file, tmp_path)) == 78
    assert "holds a run without stages" in capsys.readouterr().err


def test_two_commands_do_not_share_a_run(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLock(tmp_path):
        assert main(command(file, tmp_path)) == 75
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_print_config_prints_every_stage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config-file", str(file), "--print-config"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^# stage.*", text, re.MULTILINE) == [
        "# stage 1: pretrain",
        "# stage 2: gram",
        "# stage 3: high_res",
    ]
    assert [part["optim"]["epochs"] for part in yaml.safe_load_all(text)] == [1, 2, 1]


def test_a_run_can_begin_from_another_run(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {"optim.epochs": 1, "optim.warmup_epochs": 0, "optim.freeze_last_layer_epochs": 0, "train.max_steps": 1}
    values = (
        OVERRIDES | short | {"teacher.warmup_teacher_temp_epochs": 0, "student.layerscale": 1.0, "start.run": reference}
    )
    values |= {"evaluation.pictures": False}
    command = ["--output-dir", str(tmp_path / "run"), *[f"{k}={v}" for k, v in values.items()]]
    assert main(command) == 0
    assert f"start      {reference / FOLDERS[2]}/ckpt/step-00000004: student and EMA" in capsys.readouterr().out
    assert numbers(tmp_path / "run")[0]["samples"] == 8 * (sum(STEPS) + 1)
    command[1] = str(tmp_path / "other")
    assert main([*command, "student.depth=1"]) == 74
    assert "does not fit this model: 0 missing, " in capsys.readouterr().err
    assert main([*command, f"start.run={tmp_path}"]) == 74
    assert f"start.run: {tmp_path}: not a run folder nor one of its checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
