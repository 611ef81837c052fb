from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.load import load_config


def test_two_configs_differ_where_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("optim: {lr: 0.1}\nwandb: {enabled: true}\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_dict(load_config(None, ["optim.lr=0.2"]))))
    assert cli.main(["config", "diff", str(tmp_path / "a.yaml"), str(run)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == [str(tmp_path / "a.yaml"), str(run)]
    assert [row.split() for row in rows] == [["optim.lr", "0.1", "0.2"], ["wandb.enabled", "true", "false"]]


def test_a_run_has_the_config_it_went_on_with_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_dict(load_config(None, ["optim.lr=0.2"]))))
    history = tmp_path / "config_history"
    history.mkdir()
    for number, rate in enumerate((0.3, 0.4), 1):
        (history / f"{number:04d}.yaml").write_text(to_yaml(load_config(None, [f"optim.lr={rate}"])))
    (tmp_path / "a.yaml").write_text("optim: {lr: 0.1}\n")
    assert cli.main(["config", "diff", str(tmp_path / "a.yaml"), str(tmp_path)]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split() for row in rows] == [["optim.lr", "0.1", "0.4"]]
    (history / "0003.yaml").write_text("optim: [")
    assert cli.main(["config", "diff", str(tmp_path / "a.yaml"), str(tmp_path)]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "0003.yaml" in error


def test_a_recipe_has_a_name_and_no_difference_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "diff", "demo_cpu", "demo_cpu"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_a_key_that_an_older_run_did_not_know_had_its_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"optim": {"lr": 0.5}}')
    (tmp_path / "a.yaml").write_text("optim: {lr: 0.5}\n")
    assert cli.main(["config", "diff", str(tmp_path / "a.yaml"), str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no difference\n"


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"model_type": "dinov3_vit", "patch_size": 16}'])
def test_what_is_no_config_is_one_line(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert cli.main(["config", "diff", "demo_cpu", str(tmp_path)]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error


def test_other_tasks_are_compared_in_their_own_keys_and_two_tasks_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"task": "classify", "model": {"method": "lora"}, "optim": {"lr": 0.5}}')
    assert cli.main(["config", "diff", "pcam_lora", str(run)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"optim.lr +\S+ +0.5", told)
    assert "model.method" not in told
    assert cli.main(["config", "diff", "demo_cpu", str(run)]) == 78
    assert "is of classify, demo_cpu of pretrain" in capsys.readouterr().err
    assert cli.main(["config", "diff", "dit/demo_cpu", "dit/demo_cpu"]) == 0
