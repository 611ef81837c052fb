from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.system import errors

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = [
    *([], ["train"], ["submit"], ["doctor"], ["config"], ["models"], ["export"], ["da3-check"], ["data", "check"]),
    *(["dit"], ["dit", "extract"], ["dit", "verify"]),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: dinov3" in capsys.readouterr().out


def test_the_package_is_the_command_too() -> None:
    called = [sys.executable, "-m", "dinov3", "config", "explain", "optim.lrr"]
    done = subprocess.run(called, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 78
    assert done.stderr == "error: config explain: optim.lrr: unknown key (did you mean optim.lr?)\n"


def test_a_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "explain", "optim.clip_grad"]) == 0
    out = capsys.readouterr().out
    assert "gradient norm" in out
    assert "default  3.0" in out
    assert "dinov3/engine/trainer.py" in out


def test_an_unknown_key_is_one_line_and_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "explain", "optim.lrr"]) == 78
    assert capsys.readouterr().err == "error: config explain: optim.lrr: unknown key (did you mean optim.lr?)\n"


def test_the_overrides_that_da3_check_suggests_go_with_the_recipe_that_has_da3(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["da3-check", "--help"])
    words = [word for word in capsys.readouterr().out.partition("e.g. ")[2].split() if "=" in word]
    assert words
    assert load_config(ROOT / "configs" / "train" / "vitb_da3.yaml", words).da3.enabled


def test_a_word_is_searched_in_all_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "search", "learning", "rate"]) == 0
    assert "optim.lr " in capsys.readouterr().out
    assert cli.main(["config", "search", "zzzz"]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_exporting_nothing_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "x.pth")]) == 78
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.pth").exists()


def test_a_bad_config_is_reported_in_one_line_before_torch_is_loaded(tmp_path: Path) -> None:
    script = "import sys; from dinov3.train.command import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", script, "--output-dir", str(out), "optim.lr=-1"], capture_output=True, text=True
    )
    assert done.returncode == 78, done.stderr
    assert done.stderr.startswith("error: command line: optim.lr: -1")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_ctrl_c_is_one_word_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dinov3.config.about.command.explain", interrupted)
    assert cli.main(["config", "explain", "optim"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "knn"], "the following arguments are required: --weights, --train"),
        (["eval", "knnn"], "argument task: invalid choice: 'knnn'"),
        (["export"], "the following arguments are required: source, --out"),
        (["trian", "photos"], "trian: no such command: did you mean train?"),
        (["viz", "pca", "--weights"], "argument --weights: expected one argument"),
        ([], "the following arguments are required: command"),
    ],
)
def test_words_that_are_wrong_are_a_line_of_usage_and_the_message_and_end_with_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    usage, message, *rest = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: dinov3")
    assert len(usage) < 120
    assert f"error: {said}" in message
    assert rest == []


def test_every_exit_code_is_in_the_reference() -> None:
    table = (ROOT / "docs" / "reference.md").read_text()
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert [code for code in codes if f"\n| {code} | " not in table] == []


def test_a_command_that_is_not_there_is_named_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (("trian", "trian: no such command: did you mean train?"), ("xyz", "dinov3 --help lists them")):
        with pytest.raises(SystemExit) as end:
            cli.main([word])
        assert end.value.code == 2
        assert said in capsys.readouterr().err
