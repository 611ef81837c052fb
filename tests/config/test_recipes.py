from __future__ import annotations

from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_students
from dinov3.config.recipes import SHIPPED, config_file, recipes

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
