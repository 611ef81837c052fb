"""`dinov3 config explain`: one key, one block, one typo."""

from __future__ import annotations

from dataclasses import fields

import pytest

from dinov3.config.about import explain as module
from dinov3.config.about.explain import explain, search
from dinov3.config.about.tasks import COMMANDS, PRETRAIN, SCHEMAS, root_of
from dinov3.config.blocks.data import KnnConfig
from dinov3.config.errors import ConfigError
from dinov3.config.names import ELSEWHERE, types_of_keys
from dinov3.finetune.kinds import KINDS


def test_a_key_shows_meaning_type_limits_default_unit_and_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "places_by_key", lambda task: {"crops.global_crops_size": ("a.py:1", "b.py:2")})
    assert explain("crops.global_crops_size").splitlines() == [
        "crops.global_crops_size: side of a global crop; a list: several resolutions, one is drawn for every step",
        "  type     a whole number or a list (a whole number each), >= 1",
        "  default  224",
        "  unit     px",
        "  read by  a.py:1",
        "           b.py:2",
    ]


def test_many_readers_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    places = tuple(f"a.py:{i}" for i in range(11))
    monkeypatch.setattr(module, "places_by_key", lambda task: {"optim.lr": places})
    assert explain("optim.lr").splitlines()[-1].strip() == "and 3 more"


def test_a_choice_shows_all_its_values() -> None:
    assert "one of mlp, swiglu, swiglu32, swiglu64, swiglu128" in explain("student.ffn_layer")


def test_a_key_of_the_first_schedule_style_names_its_successor() -> None:
    assert "unused when `schedules` is given; schedules.lr.peak takes over" in explain("optim.lr")


@pytest.mark.parametrize(
    ("key", "last_line"),
    [
        ("train.saveckp_freq", "read by  nothing: accepted because published YAMLs have it"),
        ("ibot.separate_head", "read by  nothing: it has one legal value"),
        (
            "hrft.enabled",
            "read by  nothing yet: high-resolution fine-tuning by this block (configs/train/vitl_high_res.yaml does it with other keys) is not built",
        ),
        ("train.cell_augmentation", "accepted because published YAMLs have it; does nothing here"),
    ],
)
def test_a_key_nobody_reads_says_why(key: str, last_line: str) -> None:
    assert explain(key).splitlines()[-1].strip() == last_line


def test_a_block_lists_its_keys() -> None:
    lines = explain("evaluation.knn").splitlines()
    assert lines[0] == "evaluation.knn: k-nearest-neighbour accuracy of the EMA teacher's CLS token"
    keys = [f.name for f in fields(KnnConfig)]
    assert [line.split()[0] for line in lines[1:]] == [f"evaluation.knn.{k}" for k in keys]
    assert {"train", "test", "period", "k"} <= set(keys)


def test_a_list_of_blocks_lists_their_keys() -> None:
    lines = explain("multidistillation.students").splitlines()
    expected = ["name: name of the student", "config_path: ", "ranks_range: first and one past the last process"]
    assert all(line.strip().startswith(text) for line, text in zip(lines[2:5], expected, strict=True))


def test_an_unknown_key_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        explain("optim.lrr")
    assert str(caught.value) == "config explain: optim.lrr: unknown key (did you mean optim.lr?)"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optim.learningRate", "optim.lr"),
        ("learning-rate", "optim.lr"),
        ("optim.batch_size", "train.batch_size_per_gpu"),
        ("train.epochs", "optim.epochs"),
        ("train.data_dir", "train.dataset_path"),
        ("model", "student.arch"),
        ("crops.img_size", "crops.global_crops_size"),
        ("optim.grad_clip", "optim.clip_grad"),
    ],
)
def test_the_word_of_another_framework_finds_the_key(key: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(key)
    assert f"did you mean {meant}?" in str(caught.value)


def test_every_word_of_another_framework_stands_for_a_key() -> None:
    assert set(ELSEWHERE.values()) <= set(types_of_keys())


def test_a_word_finds_every_key_that_speaks_of_it() -> None:
    lines = search(["learning", "rate"]).splitlines()
    assert any(line.startswith("optim.lr ") and "peak learning rate" in line for line in lines)
    assert all("learning" in line.lower() for line in lines)
    by_name = [line.split()[0] for line in search(["mask"]).splitlines()]
    named = ["mask" in key for key in by_name]
    assert named == sorted(named, reverse=True), "keys with the word in their name come first"
    assert "student.mask_k_bias" in by_name
    assert search(["SINKHORN"]).startswith("train.centering")
    assert search(["mask", "ratio"]).split()[0] == "ibot.mask_ratio_min_max"


def test_a_word_in_no_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="config search: zzzz: no key has that"):
        search(["zzzz"])


@pytest.mark.parametrize("key", [*types_of_keys(), "evaluation.config_files.high_freq"])
def test_every_key_and_block_can_be_explained(key: str) -> None:
    text = explain(key)
    assert text.startswith(key.removesuffix(".high_freq"))
    assert text.endswith("\n")
    assert len(text.splitlines()) >= 2


def test_keys_of_other_tasks_are_explained_and_found_with_their_name() -> None:
    assert (
        explain("model.method", "classify").splitlines()[0]
        == "model.method: what trains: the head, adapters too, or all"
    )
    assert "one of head_only, lora, fullft" in explain("model.method", "classify")
    assert "conditions.text_only" in explain("conditions", "dit")
    assert search(["adapters"], "classify").split()[0] == "model.adapters"
    assert "repa.weight" in search(["repa"], "dit")


def test_a_key_of_another_task_says_which() -> None:
    with pytest.raises(ConfigError, match=r"model: unknown key .*; there is one with --task classify$"):
        explain("model.method")
    with pytest.raises(ConfigError, match=r"there is one with --task pretrain$"):
        explain("dino.loss_weight", "dit")
    with pytest.raises(ConfigError, match=r"there are some with --task classify$"):
        search(["rslora"])


@pytest.mark.parametrize(
    ("task", "key"), [(task, key) for task in SCHEMAS if task != PRETRAIN for key in types_of_keys(root_of(task))]
)
def test_every_key_of_every_task_can_be_explained(task: str, key: str) -> None:
    assert explain(key, task).startswith(key)


def test_every_task_of_fine_tuning_has_its_keys_here() -> None:
    assert set(KINDS) <= set(SCHEMAS)


def test_a_yaml_of_another_command_is_told_by_its_key() -> None:
    with pytest.raises(ConfigError, match="task: is a key of `dinov3 finetune`"):
        explain("task")


def test_every_task_has_the_command_that_reads_its_yaml() -> None:
    assert COMMANDS.keys() == SCHEMAS.keys()
    assert {task for task, command in COMMANDS.items() if command == "dinov3 finetune"} == set(KINDS)
