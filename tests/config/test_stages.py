"""Stages in one YAML: each is the file with its block laid over it, and what is wrong names the stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.config.about.explain import explain
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_stages, to_yaml

TWO = """
stages: [first, second]
stage:
  first: {}
  second:
    optim: {epochs: 40}
    crops: {local_crops_size: "${crops.global_crops_size}"}
crops: {global_crops_size: 128}
student: {drop_path_rate: 0.1, pretrained_weights: weights.pth, pretrained_allow: [mask_token]}
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(TWO)
    return path


def test_a_stage_is_the_file_with_its_block_laid_over_it(two: Path) -> None:
    first, second = load_stages(two)
    assert [(s.name, s.number) for s in (first, second)] == [("first", 1), ("second", 2)]
    assert (first.cfg.optim.epochs, second.cfg.optim.epochs) == (100, 40)
    assert first.cfg.student.drop_path_rate == second.cfg.student.drop_path_rate == 0.1
    assert (first.cfg.crops.local_crops_size, second.cfg.crops.local_crops_size) == (96, 128)


def test_a_later_stage_starts_from_the_one_before_and_only_the_first_from_weights(two: Path) -> None:
    first, second = (stage.cfg for stage in load_stages(two))
    assert (first.start.run, first.student.pretrained_weights) == ("", "weights.pth")
    assert (second.start.run, second.student.pretrained_weights) == ("stage:first", "")


def test_arguments_are_for_every_stage_and_above_the_file_or_for_one(two: Path) -> None:
    first, second = load_stages(
        two,
        [
            "optim.epochs=50",
            "stage.second.optim.lr=3e-3",
            "start.run=runs/x",
            "student.pretrained_weights=",
            "student.pretrained_allow=[]",
        ],
    )
    assert (first.cfg.optim.epochs, second.cfg.optim.epochs) == (50, 50)
    assert (first.cfg.optim.lr, second.cfg.optim.lr) == (1e-3, 3e-3)
    assert (first.cfg.start.run, second.cfg.start.run) == ("runs/x", "stage:first"), "the first begins the run"


def test_stages_can_be_chosen_by_an_argument(two: Path) -> None:
    assert [stage.name for stage in load_stages(two, ["stages=[second]"])] == ["second"]


def test_a_file_without_stages_is_one_run_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("optim: {epochs: 40}")
    (only,) = load_stages(path)
    assert (only.name, only.number, only.cfg) == ("", 1, load_config(path))


def test_what_reads_one_config_gets_the_first_stage(two: Path) -> None:
    assert load_config(two) == load_stages(two)[0].cfg


def test_a_stage_written_out_is_a_config_of_its_own(two: Path, tmp_path: Path) -> None:
    cfg = load_stages(two)[1].cfg
    path = tmp_path / "second.yaml"
    path.write_text(to_yaml(cfg).replace("stage:first", "runs/first"))
    cfg.start.run = "runs/first"
    assert load_config(path) == cfg


def test_the_two_keys_are_explained() -> None:
    assert explain("stages").startswith("stages: names of the blocks below `stage`")
    assert explain("stage").startswith("stage: by name, what differs")


# (arguments, what must stand in the error; FILE is the file)
BAD = {
    "a name without a block": (["stages=[first, third]"], "command line: stages: third has no block stage.third"),
    "a name twice": (["stages=[first, first]"], "command line: stages: first stands there twice"),
    "a name that is no folder": (["stages=[../first]"], "'../first' names a folder: use letters"),
    "no list": (["stages=3"], "command line: stages: '3' is not a list (text each)"),
    "a block that is never run": (
        ["stage.third.optim.lr=1"],
        "command line: stage.third: is not in stages: [first, second], so it is never run",
    ),
    "a misspelt key": (["stage.second.optim.lrr=1"], "command line: optim.lrr: unknown key (did you mean optim.lr?)"),
    "no key": (
        ["stage.second=1"],
        "command line: stage.second: needs a key of a stage, as stage.second.optim.epochs=10",
    ),
    "no stage": (["stage=1"], "command line: stage: needs a key of a stage, as stage.NAME.optim.epochs=10"),
    "a value that only one stage refuses": (
        ["optim.warmup_epochs=50"],
        "command line: stage second: optim.warmup_epochs: is 50, training only has optim.epochs 40",
    ),
    "a default that only one stage refuses": (
        ["stage.second.optim.epochs=9"],
        "command line: stage second: optim.warmup_epochs: is 10, training only has optim.epochs 9",
    ),
    "a stage that comes later": (
        ["stage.first.gram.ckpt=stage:second"],
        "FILE: stage first: gram.ckpt: stage:second must come before this one: nothing does",
    ),
    "a stage that is none": (
        ["stage.second.gram.ckpt=stage:third"],
        "FILE: stage second: gram.ckpt: stage:third must come before this one: choose from stage:first",
    ),
    "another folder": (
        ["stage.second.train.output_dir=x"],
        "command line: stage second: train.output_dir: is the folder of all stages",
    ),
    "two beginnings": (
        ["stage.second.student.pretrained_weights=x.pth"],
        "command line: stage second: student.pretrained_weights: x.pth, but start.run is stage:first: give one of them",
    ),
    "moments of the student for the EMA": (
        ["stage.second.start.student=ema", "stage.second.start.optimizer=true"],
        "command line: stage second: start.optimizer: true, but the moments there are the student's",
    ),
    "moments from nowhere": (
        ["stage.first.start.optimizer=true"],
        "command line: stage first: start.optimizer: true, but there is no run to take moments from",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_stage_is_one_line(two: Path, name: str) -> None:
    overrides, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        load_stages(two, overrides)
    assert expected.replace("FILE", str(two)) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stages: [a]\nstage: [a]", "stage: ['a'] is not a block of keys"),
        ("stages: [a]\nstage: {a: 3}", "stage a: '3' is not a block of keys"),
        ("stages: [a]\nstage: {a: {optm: {}}}", "stage a: optm: unknown key (did you mean optim?)"),
        ("stage: {a: {}}", "stage.a: is not in stages: [], so it is never run"),
        ("stages: [a, b]\nstage: {a: , b: }\nstart: 3", "start: '3' is not a block of keys"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_stages(path)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_an_empty_block_is_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("stages: [a, b]\nstage: {a: , b: }\nstart:\noptim: {epochs: 60}")
    assert [(s.cfg.optim.epochs, s.cfg.start.run) for s in load_stages(path)] == [(60, ""), (60, "stage:a")]
