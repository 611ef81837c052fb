"""A command line that cannot be meant so says what to write instead."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.arguments import not_an_override, refuse_a_model_nobody_chose, unrecognised
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.engine.command import say_which_folder
from dinov3.train.command import main


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--optim.epochs=3"], "optim.epochs=3"),
        (["--optim.epochs", "3"], "optim.epochs=3"),
        (["--epochs=3"], "optim.epochs=3"),
        (["--batch-size", "8"], "train.batch_size_per_gpu=8"),
        (["--learning-rate=1e-3"], "optim.lr=1e-3"),
        (["--train.dataset-path", "/photos"], "train.dataset_path=/photos"),
        (["--qqqqqqqqqq=1"], "key=value"),
    ],
)
def test_an_override_with_dashes_is_told_to_drop_them(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unrecognised(words, words).splitlines()[1].startswith(f"overrides have no dashes: {hint}")
    for command in (lambda: cli.main(["train", *words]), lambda: main(words)):
        with pytest.raises(SystemExit) as end:
            command()
        assert end.value.code == 2
        assert f"overrides have no dashes: {hint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--outputdir", "m/o"], "did you mean --output-dir?"),
        (["--output_dir=m/o"], "did you mean --output-dir?"),
        (["--resume-form", "x"], "did you mean --resume-from?"),
    ],
)
def test_an_option_with_a_slip_is_named(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (lambda: cli.main(["train", *words]), lambda: main(words)):
        with pytest.raises(SystemExit) as end:
            command()
        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f": {hint}\n")
    with pytest.raises(SystemExit):
        cli.main(["eval", "knn", "--weights", "w", "--train", "t", "--tesst", "u"])
    assert capsys.readouterr().err.endswith("--tesst u: did you mean --test?\n")


def test_training_nothing_says_that_a_folder_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train"]) == 78
    assert "nothing says what to train; `dinov3 train FOLDER` chooses" in capsys.readouterr().err
    assert cli.main(["finetune"]) == 78
    assert "FOLDER" not in capsys.readouterr().err


def test_of_two_run_folders_the_one_that_counts_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(output_dir=tmp_path / "a", opts=[f"train.output_dir={tmp_path / 'b'}"])
    say_which_folder(tmp_path / "a", args)
    said = f"note: --output-dir {tmp_path / 'a'} counts, train.output_dir={tmp_path / 'b'} does not\n"
    assert capsys.readouterr().err == said
    args.opts = [f"train.output_dir={tmp_path / 'a'}"]
    say_which_folder(tmp_path / "a", args)
    say_which_folder(tmp_path / "b", argparse.Namespace(output_dir=None, opts=["train.output_dir=b"]))
    assert capsys.readouterr().err == ""


def test_a_command_without_overrides_gives_no_such_hint() -> None:
    assert (
        unrecognised(["--optim.lr=3"], ["--optim.lr=3"], takes_overrides=False)
        == "unrecognized arguments: --optim.lr=3"
    )


def test_a_folder_in_the_place_of_an_override_is_told_where_it_belongs(tmp_path: Path) -> None:
    for word in (str(tmp_path), "/my/photos", "~/photos", "./x"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [word])
        assert f"train.dataset_path={word}" in str(caught.value)
        assert "--config-file configs/train/" in str(caught.value)
    assert not_an_override("recipe.yml") == "is neither a folder or file that is there nor key=value"
    assert not_an_override("demo_cpu") == "is a recipe, not key=value: write --config-file demo_cpu"
    assert not_an_override("optim.epochs").endswith("write optim.epochs=VALUE, without a blank")
    assert not_an_override("optim.epochs:3").endswith("write optim.epochs=3, without a blank")
    (tmp_path / "recipe.yml").touch()
    assert not_an_override(f"{tmp_path}/recipe.yml").endswith(f"write --config-file {tmp_path}/recipe.yml")


def test_a_model_that_nobody_chose_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output-dir", str(tmp_path / "run"), "optim.epochs=300"]) == 78
    error = capsys.readouterr().err
    assert "303 million parameters" in error
    assert "--config-file: is missing" in error
    assert not (tmp_path / "run").exists()
    for chosen in ("student.arch=vit_large", "student.preset=dinov3_vits16", "start.run=/runs/a"):
        refuse_a_model_nobody_chose(None, [chosen])
    refuse_a_model_nobody_chose(tmp_path / "recipe.yaml", [])


def test_the_printed_config_has_the_folder_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--print-config", "--output-dir", str(tmp_path / "run")]) == 0
    assert f"output_dir: {tmp_path / 'run'}\n" in capsys.readouterr().out
    assert main(["--print-config"]) == 0
    assert "output_dir: .\n" in capsys.readouterr().out
