"""The students of ``multidistillation``: whose word counts, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_students
from dinov3.train.command import main as train

Students = list[dict[str, Any]]


def write(folder: Path, students: Students | None = None, files: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The YAML of two students on three processes; ``changes``: whole blocks, and keys of ``multidistillation``."""
    contents = {"a": {"student": {"arch": "vit_small"}}, "b": {"student": {"arch": "vit_base"}}, **(files or {})}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    given = students if students is not None else [student(folder, "a", 0, 1), student(folder, "b", 1, 3)]
    settings = {"enabled": True, "global_batch_size": 24, "students": given}
    base = {
        "distillation": {"enabled": True, "full_cfg_path": "t.yaml", "checkpoint_path": "t.pth"},
        "optim": {"lr": 0.5},
        "multidistillation": settings,
    }
    for key, value in changes.items():
        (base if isinstance(value, dict) else settings)[key] = value
    (folder / "all.yaml").write_text(yaml.safe_dump(base))
    return folder / "all.yaml"


def student(folder: Path, name: str, first: int, end: int) -> dict[str, Any]:
    return {"name": name, "config_path": str(folder / f"{name}.yaml"), "ranks_range": [first, end]}


def problem(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_students(file, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_students_file_lies_over_the_common_one_and_the_command_line_over_both(tmp_path: Path) -> None:
    files = {"b": {"student": {"arch": "vit_base"}, "optim": {"lr": 0.25}, "dino": {"koleo_loss_weight": 0.3}}}
    a, b = load_students(write(tmp_path, files=files), ["dino.koleo_loss_weight=0.2"])
    assert (a.name, a.ranks, a.cfg.student.arch, a.cfg.optim.lr) == ("a", range(1), "vit_small", 0.5)
    assert (b.name, b.ranks, b.cfg.student.arch, b.cfg.optim.lr) == ("b", range(1, 3), "vit_base", 0.25)
    assert a.cfg.dino.koleo_loss_weight == b.cfg.dino.koleo_loss_weight == 0.2


def test_every_student_sees_the_whole_global_batch(tmp_path: Path) -> None:
    a, b = load_students(write(tmp_path))
    assert (a.cfg.train.batch_size_per_gpu, b.cfg.train.batch_size_per_gpu) == (24, 12)


def test_what_a_students_own_file_says_of_batch_folder_and_students_is_passed_over(tmp_path: Path) -> None:
    own = {"train": {"batch_size_per_gpu": 7, "output_dir": "elsewhere"}, "multidistillation": {"enabled": False}}
    first, _ = load_students(write(tmp_path, files={"a": own}, train={"output_dir": "here"}))
    assert first.cfg.train.batch_size_per_gpu == 24
    assert first.cfg.train.output_dir == "here"
    assert first.cfg.multidistillation.enabled


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (
            [(0, 1), (2, 4)],
            "b has ranks_range [2, 4], expected [1, more than 1]: every process from 0 on has one student",
        ),
        ([(0, 2), (1, 3)], "b has ranks_range [1, 3], expected [2, more than 2]"),
        ([(0, 1), (1, 1)], "b has ranks_range [1, 1], expected [1, more than 1]"),
        ([(1, 2), (2, 3)], "a has ranks_range [1, 2], expected [0, more than 0]"),
    ],
)
def test_ranges_that_leave_out_or_share_a_process_are_refused(
    tmp_path: Path, ranges: list[tuple[int, int]], said: str
) -> None:
    students = [student(tmp_path, name, *ends) for name, ends in zip("ab", ranges, strict=True)]
    assert problem(write(tmp_path, students)).startswith(f"{tmp_path}/all.yaml: multidistillation.students: {said}")


def test_a_batch_that_cannot_be_shared_out_is_refused_with_the_nearest_that_can(tmp_path: Path) -> None:
    text = problem(write(tmp_path, global_batch_size=27))
    assert text.endswith("global_batch_size: 27 cannot be shared out among 3 processes, 1 + 2: use 26 or 28")
    assert problem(write(tmp_path, global_batch_size=1)).endswith("use 2")


def test_a_batch_need_not_be_a_multiple_of_all_processes(tmp_path: Path) -> None:
    """DINOv3's own file: 1,920 images, 48 + 48 + 80 + 120 processes."""
    ends = [0, 48, 96, 176, 296]
    students = [student(tmp_path, "ab"[i % 2], *ends[i : i + 2]) | {"name": f"s{i}"} for i in range(4)]
    found = load_students(write(tmp_path, students, global_batch_size=1920))
    assert [s.cfg.train.batch_size_per_gpu for s in found] == [40, 40, 24, 16]


@pytest.mark.parametrize(
    ("block", "values", "key"),
    [
        ("crops", {"global_crops_size": 128}, "crops.global_crops_size"),
        ("ibot", {"mask_sample_probability": 0.3}, "ibot.mask_sample_probability"),
        ("train", {"seed": 3}, "train.seed"),
        ("optim", {"epochs": 200}, "optim.epochs"),
        ("checkpointing", {"period": 17}, "checkpointing.period"),
        ("student", {"patch_size": 8}, "student.patch_size"),
    ],
)
def test_what_decides_images_and_steps_is_the_same_for_all(
    tmp_path: Path, block: str, values: dict[str, Any], key: str
) -> None:
    text = problem(write(tmp_path, files={"b": {block: values}}))
    assert text.startswith(f"{tmp_path}/all.yaml: student b: {key}: ")
    assert "the teacher's pass is shared, so make them equal" in text


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["distillation.enabled=false"], "distillation.enabled"),
        (["train.gradient_accumulation_steps=2"], "train.gradient_accumulation_steps"),
        (["gram.use_loss=true", "gram.ema_teacher=true"], "gram.ema_teacher"),
        (["multidistillation.students=[]"], "multidistillation.students"),
        (["multidistillation.global_batch_size=null"], "multidistillation.global_batch_size"),
        (["train.batch_size_per_gpu=4"], "train.batch_size_per_gpu"),
        (["stages=[one]", "stage.one.optim.lr=0.1"], "stages"),
    ],
)
def test_what_does_not_go_with_several_students_is_named(tmp_path: Path, overrides: list[str], key: str) -> None:
    assert f": {key}: " in problem(write(tmp_path), *overrides)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "a"), "a stands there twice"),
        (("a", "../b"), "'../b' names a folder"),
        (("a", "ckpt"), "'ckpt' names a folder"),
    ],
)
def test_a_students_name_is_a_folder_of_its_own(tmp_path: Path, names: tuple[str, str], said: str) -> None:
    students = [{**student(tmp_path, "a", i, i + 1), "name": name} for i, name in enumerate(names)]
    assert said in problem(write(tmp_path, students))


def test_a_mistake_in_a_students_file_names_that_file(tmp_path: Path) -> None:
    assert problem(write(tmp_path, files={"b": {"student": {"arhc": "vit_base"}}})).startswith(f"{tmp_path}/b.yaml: ")
    (tmp_path / "a.yaml").unlink()
    file = write(tmp_path)
    (tmp_path / "a.yaml").unlink()
    assert f"{tmp_path}/a.yaml" in problem(file)


def test_a_published_key_without_effect_is_named_once_however_many_students_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    files = {"b": {"student": {"arch": "vit_base"}, "train": {"saveckp_freq": 5}}}
    file = write(tmp_path, files=files, train={"cache_dataset": True, "cell_augmentation": True})
    main = ["--print-config", "--config-file", str(file)]
    assert train(main) == 0
    assert sorted(caplog.messages) == [
        f"{tmp_path}/all.yaml: these published keys do nothing here: train.cache_dataset, train.cell_augmentation",
        f"{tmp_path}/b.yaml: these published keys do nothing here: train.saveckp_freq",
    ]
    assert capsys.readouterr().out.count("# student") == 2
