"""Students that share a teacher's pass learn what each would learn alone, stop together, and go on from one step."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from tests.faults.conftest import Reference
from tests.faults.runs import MEASURED, PERIOD, SETTINGS, Launcher, assert_same, files, final_state, whole
from tests.train.tiny import OVERRIDES, overrides

STUDENTS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "small": ([0, 1], {"student": {"embed_dim": 32, "num_heads": 1}}),
    "deep": ([1, 3], {"student": {"embed_dim": 48, "num_heads": 3, "depth": 3}, "optim": {"lr": 0.002}}),
}
ROOT = Path(__file__).resolve().parents[2]
BATCH, PROCESSES, STEPS = 12, 3, 8


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        block, _, name = key.replace("__", ".").partition(".")
        tree.setdefault(block, {})[name] = value
    return tree


def write(folder: Path, images: Path, teacher: Path) -> Path:
    """The YAML of all, and those of the students beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    base = nested({**OVERRIDES, **SETTINGS, "train.dataset_path": str(images), "train.max_steps": STEPS})
    base["evaluation"]["pictures"] = False
    base["distillation"] = {
        "enabled": True,
        "full_cfg_path": str(teacher / "config.yaml"),
        "checkpoint_path": str(teacher),
    }
    for name, (_, own) in STUDENTS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
    students = [
        {"name": name, "config_path": str(folder / f"{name}.yaml"), "ranks_range": ranks}
        for name, (ranks, _) in STUDENTS.items()
    ]
    base["multidistillation"] = {"enabled": True, "global_batch_size": BATCH, "students": students}
    (folder / "all.yaml").write_text(yaml.safe_dump(base))
    return folder / "all.yaml"


@pytest.fixture(scope="module")
def together(runs: Launcher, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The YAML, and a run of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("students")
    file = write(folder, runs.images, reference(1))
    assert runs.run(folder / "run", file=file, ranks=PROCESSES) == [0] * PROCESSES
    return file, folder / "run"


def figures(out: Path) -> list[dict[str, float]]:
    rows = read_rows(out / "metrics.jsonl")
    return [{k: float(v) for k, v in row.items() if k not in MEASURED} for row in rows]


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_among_others_has_the_losses_of_one_that_is_distilled_alone(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    file, run = together
    (first, end), own = STUDENTS[name]
    settings = yaml.safe_load(file.read_text())
    del settings["multidistillation"]
    for block, values in own.items():
        settings[block] |= values
    settings["train"]["batch_size_per_gpu"] = BATCH // (end - first)
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(settings))
    assert runs.run(tmp_path / "alone", file=tmp_path / "alone.yaml", ranks=end - first) == [0] * (end - first)
    ours, alone = figures(run / name), figures(tmp_path / "alone")
    assert len(ours) == len(alone) == STEPS
    assert ours[0]["total_loss"] != ours[-1]["total_loss"]
    for a, b in zip(ours, alone, strict=True):
        assert a.keys() == b.keys()
        assert all(math.isclose(a[k], b[k], rel_tol=2e-4, abs_tol=1e-6) for k in a), (a, b)
        assert math.isclose(a["total_loss"], b["total_loss"], rel_tol=1e-5)


@pytest.mark.nightly
def test_a_student_may_be_sharded_over_its_own_processes(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    losses = {}
    for strategy in ("NO_SHARD", "FULL_SHARD"):
        # KoLeo off: class tokens are all but equal at the start, and the last bit of a sum decides which is the nearest
        settings = (f"compute_precision.sharding_strategy={strategy}", "dino.koleo_loss_weight=0")
        out = tmp_path / strategy
        assert runs.run(out, *settings, file=together[0], ranks=PROCESSES) == [0] * PROCESSES
        losses[strategy] = [row["total_loss"] for name in STUDENTS for row in figures(out / name)]
    assert (tmp_path / "FULL_SHARD.log").read_text().count("parameters: FULL_SHARD") == 1, "the other has one process"
    assert len(losses["NO_SHARD"]) == STEPS * len(STUDENTS)
    assert losses["FULL_SHARD"] == pytest.approx(losses["NO_SHARD"], rel=1e-6)


def continue_and_compare(runs: Launcher, together: tuple[Path, Path], out: Path) -> None:
    file, run = together
    assert runs.run(out, file=file, ranks=PROCESSES) == [0] * PROCESSES
    for name in STUDENTS:
        assert_same(out / name, run / name)


@pytest.mark.parametrize(
    "fault",
    [
        "step@4:2",  # a process of the second student, in a step
        "rename@6:1",  # the second student's save; the first student may have committed its own
        pytest.param("rename@6:0", marks=pytest.mark.nightly),
        pytest.param("rename@3:1", marks=pytest.mark.nightly),  # one has no checkpoint at all: both begin again
        pytest.param("committed@8:0", marks=pytest.mark.nightly),
    ],
)
def test_after_a_kill_all_students_go_on_from_one_step_and_end_as_if_undisturbed(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path, fault: str
) -> None:
    out = tmp_path / "run"
    assert -signal.SIGKILL in runs.run(out, file=together[0], ranks=PROCESSES, fault=fault)
    continue_and_compare(runs, together, out)


def test_students_at_different_steps_go_back_to_the_one_they_share(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, "train.max_steps=6", file=together[0], ranks=PROCESSES) == [0] * PROCESSES
    newest = step_folders(out / "deep")[-1]
    (newest / "manifest.json").unlink()
    continue_and_compare(runs, together, out)
    assert "another student is at step 3: 1 later checkpoints are now in" in (tmp_path / "run.log").read_text()
    assert [p.name for p in (out / "small" / "before-1" / "ckpt").iterdir()] == [newest.name]


def test_sigterm_to_one_process_of_one_student_stops_all_students_at_the_same_step(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, file=together[0], ranks=PROCESSES, fault="step@4:2=term") == [85] * PROCESSES
    assert [whole(out / name) for name in STUDENTS] == [[PERIOD, 5]] * 2
    continue_and_compare(runs, together, out)


@pytest.mark.nightly
def test_a_drift_limit_of_one_student_stops_all_at_the_same_step(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    file, out = write(tmp_path, runs.images, reference(1)), tmp_path / "run"
    drift = {"enabled": True, "images": 8, "stop_below": 0.9999999}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**STUDENTS["small"][1], "evaluation": {"drift": drift}}))
    assert runs.run(out, "evaluation.drift.period=2", file=file, ranks=PROCESSES) == [71] * PROCESSES
    (step,) = {whole(out / name)[-1] for name in STUDENTS}
    assert step < STEPS
    assert (tmp_path / "run.log").read_text().count("small: the CLS tokens have a mean cosine of") == len(STUDENTS)


@pytest.mark.nightly
def test_a_save_that_one_student_owes_is_made_by_all(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    fault, out = "loss@3:0=spoil,step@5:0", tmp_path / "run"
    assert -signal.SIGKILL in runs.run(out, "checkpointing.period=2", file=together[0], ranks=PROCESSES, fault=fault)
    assert whole(out / "small") == [2, 5], "step 3 was not finite, so nothing was saved after it"
    assert whole(out / "deep")[-1] == 5


@pytest.mark.nightly
def test_a_student_that_does_not_save_keeps_the_others_checkpoints_alive(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its disk is full."""
    out, fault = tmp_path / "run", ",".join(f"rename@{step}:1=fail" for step in (4, 6))
    more = ("checkpointing.period=2", "checkpointing.max_to_keep=1", "checkpointing.on_error=warn")
    codes = runs.run(out, *more, file=together[0], ranks=PROCESSES, fault=f"{fault},step@7:0")
    assert -signal.SIGKILL in codes
    assert whole(out / "deep") == [2]
    assert whole(out / "small") == [2, 4, 6]
    assert runs.run(out, *more, file=together[0], ranks=PROCESSES) == [0] * PROCESSES
    for name in STUDENTS:
        assert final_state(out / name) == final_state(together[1] / name)


def test_the_wrong_number_of_processes_is_refused_with_the_right_one(
    together: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["--config-file", str(together[0]), "--output-dir", str(out)]) == 78
    assert "1 process started, the ranges are for 3: torchrun --nproc-per-node 3" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.nightly
def test_a_process_that_hangs_ends_all_students(runs: Launcher, together: tuple[Path, Path], tmp_path: Path) -> None:
    limit = max(3, round(runs.seconds.get(PROCESSES, 60)))  # no step takes longer than a whole run has just taken
    words = f"train.watchdog_seconds={limit}"
    codes = runs.run(tmp_path / "run", words, file=together[0], ranks=PROCESSES, fault="step@4:2=stall")
    assert codes == [79] * PROCESSES


def test_a_finished_run_of_students_says_so_and_changes_no_file(runs: Launcher, together: tuple[Path, Path]) -> None:
    file, run = together
    before = files(run)
    assert runs.run(run, file=file, ranks=PROCESSES) == [0] * PROCESSES
    assert (run.parent / "run.log").read_text().count(f"finished at step {STEPS}") == len(STUDENTS)
    assert files(run) == before


def test_what_a_kill_left_in_the_folder_of_a_finished_student_is_removed_for_all_students(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(together[1], tmp_path / "run"))
    ckpt = out / "deep" / "ckpt"
    shutil.copytree(ckpt / "step-00000006", ckpt / "step-00000003")
    (ckpt / ".tmp-00000008.1-a").mkdir()
    continue_and_compare(runs, together, out)


@pytest.mark.nightly
def test_a_student_whose_pictures_are_missing_gets_them_while_the_others_wait(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    out, drawn = Path(shutil.copytree(together[1], tmp_path / "run")), "evaluation.pictures=true"
    assert runs.run(out, drawn, file=together[0], ranks=PROCESSES) == [0] * PROCESSES
    picture = out / "deep" / "pca.png"
    expected = picture.read_bytes()
    picture.unlink()
    assert runs.run(out, drawn, file=together[0], ranks=PROCESSES) == [0] * PROCESSES
    assert picture.read_bytes() == expected


def test_the_recipe_trains_two_steps_when_it_is_made_small(
    runs: Launcher, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = ROOT / "configs" / "train" / "multi_distillation.yaml"
    layout = [
        {"name": s.name, "config_path": str(ROOT / s.config_path), "ranks_range": [number, number + 1]}
        for number, s in enumerate(load_config(recipe).multidistillation.students)
    ]
    small = overrides(
        **{
            "train.max_steps": 2,
            "train.dataset_path": runs.images,
            "distillation.full_cfg_path": reference(1) / "config.yaml",
        },
        **{"distillation.checkpoint_path": reference(1), "multidistillation.global_batch_size": 8},
        **{"multidistillation.students": json.dumps(layout), "optim.warmup_epochs": 0, "evaluation.pictures": "false"},
    )
    small = [text for text in small if not text.startswith("train.batch_size_per_gpu=")]  # it follows
    assert runs.run(tmp_path / "run", *small, file=recipe, ranks=2) == [0, 0]
    for student in layout:
        assert len(figures(tmp_path / "run" / student["name"])) == 2


def test_a_student_that_is_new_among_others_is_refused_before_anything_is_moved(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    file, out = yaml.safe_load(together[0].read_text()), tmp_path / "run"
    shutil.copytree(together[1], out)
    file["multidistillation"]["students"][1]["name"] = "renamed"
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(file))
    assert runs.run(out, file=tmp_path / "all.yaml", ranks=PROCESSES) == [78] * PROCESSES
    assert "renamed has not begun in" in (tmp_path / "run.log").read_text()
    assert [p.name for p in (out / "small").glob("before-*")] == []


def test_students_without_a_step_in_common_do_not_begin_again_by_themselves(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(together[1], out)
    shutil.rmtree(out / "deep" / "ckpt")
    before = files(out / "small")
    assert runs.run(out, file=together[0], ranks=PROCESSES) == [74] * PROCESSES
    log = (tmp_path / "run.log").read_text()
    assert log.count("error: ") == 1
    assert "small has no checkpoint of step 0 or before, and another student none after it" in log
    assert files(out / "small") == before


def test_what_is_wrong_with_one_student_is_said_once_before_any_folder_is_touched(
    runs: Launcher, together: tuple[Path, Path], tmp_path: Path
) -> None:
    file, out = yaml.safe_load(together[0].read_text()), tmp_path / "run"
    own = {**STUDENTS["deep"][1], "dino": {"head_n_prototypes": 32}}
    (tmp_path / "deep.yaml").write_text(yaml.safe_dump(own))
    file["multidistillation"]["students"][1]["config_path"] = str(tmp_path / "deep.yaml")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(file))
    assert runs.run(out, file=tmp_path / "all.yaml", ranks=PROCESSES) == [78] * PROCESSES
    log = (tmp_path / "run.log").read_text()
    assert log.count("error: ") == 1
    assert "dino.head_n_prototypes: 32, but the teacher" in log
    assert not out.exists()


def test_the_folder_of_all_students_is_no_run_and_says_which_are(
    together: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = together[1]
    assert cli.main(["report", str(run)]) == 78
    assert cli.main(["export", str(run), "--out", str(tmp_path / "x.pth")]) != 0
    assert capsys.readouterr().err.count(f"holds several students; give the folder of one, {run / 'deep'}") == 2
    assert main(["--output-dir", str(run), *overrides()]) == 78
    assert "holds a run of students, deep is one" in capsys.readouterr().err
