from __future__ import annotations

from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_students
from dinov3.config.recipes import OTHERS, SHIPPED, config_file, others, recipes

ROOT = Path(__file__).resolve().parents[2]


def test_every_recipe_of_the_checkout_is_shipped_under_a_short_name() -> None:
    assert recipes() == sorted(path.stem for path in (ROOT / "configs" / "train").glob("*.yaml"))


@pytest.mark.parametrize("name", recipes())
def test_a_short_name_and_the_name_in_the_checkout_are_one_file_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a run of that name is no config
    for text in (name, f"{name}.yaml", f"configs/train/{name}.yaml"):
        assert load_config(config_file(text)) == load_config(ROOT / "configs" / "train" / f"{name}.yaml")


def test_the_students_of_a_shipped_recipe_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [s.name for s in load_students(config_file("multi_distillation"))] == ["vits", "vitb"]


def test_a_file_of_ones_own_comes_before_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo_cpu").write_text("train: {seed: 5}\n")
    assert load_config(config_file("demo_cpu")).train.seed == 5


@pytest.mark.parametrize("text", ["../pyproject", "students/../demo_cpu", "/demo_cpu", "no_such_recipe"])
def test_a_name_leads_nowhere_but_to_a_recipe(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SHIPPED not in config_file(text).resolve().parents
    with pytest.raises(ConfigError, match="no such file"):
        load_config(config_file(text))


def test_a_misspelt_recipe_is_answered_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config-file", "photo_vits"]) == 78
    assert "the shipped recipes are " in (said := capsys.readouterr().err)
    assert "photos_vits" in said


def test_recipes_of_other_kinds_are_shipped_under_short_names_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = {f"{kind}/{p.stem}": p for kind in OTHERS for p in (ROOT / "configs" / kind).glob("*.yaml")}
    assert set(others()) == set(wanted)
    for name, path in wanted.items():
        kind, _, short = name.partition("/")
        for text in (name, f"configs/{name}.yaml", f"{name}.yaml"):
            assert config_file(text).samefile(path)
        assert config_file(short, kind=kind).samefile(path)
    assert config_file("pcam_lora").samefile(wanted["finetune/pcam_lora"])


def test_a_name_that_two_kinds_have_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_file("demo_cpu").samefile(ROOT / "configs" / "train" / "demo_cpu.yaml")
    assert config_file("demo_cpu", kind="dit").samefile(ROOT / "configs" / "dit" / "demo_cpu.yaml")


def test_a_command_finds_the_recipes_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["finetune", "--config-file", "pcam_lora", "--print-config", "model.weights=w"]) == 0
    assert "method: lora" in capsys.readouterr().out
    assert cli.main(["dit", "train", "--config-file", "demo_cpu", "--print-config", "train.dataset_path=s"]) == 0
    assert "transformer:" in capsys.readouterr().out
