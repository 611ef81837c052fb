"""``dinov3 --help`` by purpose, an example for every command, completion."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dinov3 import cli


def test_help_lists_every_command_once_below_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for group, commands in cli.GROUPS.items():
        start = lines.index(f"{group}:")
        assert [line.split()[0] for line in lines[start + 1 : start + 1 + len(commands)]] == list(commands)
    assert max(map(len, lines)) <= 120


def test_every_example_is_a_command_that_the_parser_takes() -> None:
    parser = cli.build_parser(whole=True)
    for name, (_, _, example) in cli.COMMANDS.items():
        words = shlex.split(example)
        assert words[0] == name
        parser.parse_known_args(words)  # SystemExit for what it does not take


def test_the_help_of_a_command_ends_with_its_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "runs", "init"):
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        assert f"example: dinov3 {cli.COMMANDS[name][2]}" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "compare" in script
    assert "goal" in script


def test_bash_takes_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    subprocess.run(["bash", "-n"], input=capsys.readouterr().out, text=True, check=True)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["completion", "bash"]) == 78
    assert capsys.readouterr().err == "error: dinov3 completion needs shtab: pip install 'dinov3[completion]'\n"


def test_help_does_not_load_torch() -> None:
    code = "import sys; from dinov3 import cli\ntry: cli.main(['--help'])\nexcept SystemExit: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_table_of_runs_does_not_load_torch(tmp_path: Path) -> None:
    code = f"import sys; from dinov3 import cli\nassert cli.main(['runs', {str(tmp_path)!r}]) in (0, 78)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
