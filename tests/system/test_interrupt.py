"""Ctrl-C before a command has begun: one word, exit code 130, whatever is being imported."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dinov3.system.interrupt import interruptible

ROOT = Path(__file__).resolve().parents[2]
# Presses Ctrl-C when the module that is named first is looked for, then is `python -m` the module named second.
PRESSED = """
import runpy, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

when, module, *words = sys.argv[1:]
sys.argv = [module, *words]
sys.meta_path.insert(0, Press())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
EXPORT = ("dinov3.cli", "export", "run", "--out", "x.pth")
PCA = ("dinov3.cli", "viz", "pca", "--weights", "run", "--data", "photos", "--out", "x.png")
TRAIN = ("dinov3.train", "photos")


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("argparse", EXPORT),
        ("dinov3.config.arguments", EXPORT),
        ("dinov3.weights.command", EXPORT),
        ("torch", EXPORT),
        ("numpy", EXPORT),
        ("dinov3.pictures.command", PCA),
        ("torch.nn", PCA),
        ("dinov3.config.schema", ("dinov3.cli", "train", "photos")),
        ("dinov3.train.command", TRAIN),
        ("dinov3.config.schema", TRAIN),
        ("dinov3.engine.command", TRAIN),
    ],
)
def test_ctrl_c_during_an_import_is_one_word(when: str, words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRESSED, when, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("door", ["dinov3.cli", "dinov3.train"])
def test_what_an_entry_point_imports_before_it_answers_is_next_to_nothing(door: str) -> None:
    code = f"import sys; before = {{*sys.modules}}; import {door}; print(*sorted({{*sys.modules}} - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert not {"typing", "enum", "signal", "argparse", "importlib"} & set(done.stdout.split())


def test_a_command_of_another_process_than_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    monkeypatch.setenv("RANK", "1")
    assert interruptible(command) == 130
    assert capsys.readouterr().err == ""


def test_a_module_that_makes_another_error_of_ctrl_c_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("half of it is missing") from error

    assert interruptible(command) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_in_the_middle_of_a_dataclass_is_no_death_by_signal(tmp_path: Path) -> None:
    call = 'interruptible(lambda: exec("raise KeyboardInterrupt"))'
    (tmp_path / "pressed.py").write_text(
        f"import sys\nfrom dinov3.system.interrupt import interruptible\nsys.exit({call})\n"
    )
    command = [sys.executable, "-m", "pressed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_an_import_that_fails_by_itself_is_still_raised() -> None:
    def command() -> int:
        raise ImportError("no such module")

    with pytest.raises(ImportError, match="no such module"):
        interruptible(command)


def test_what_ctrl_c_does_is_afterwards_what_it_was() -> None:
    def command() -> int:
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert interruptible(command) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_command_can_be_called_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(interruptible, lambda: 7).result() == 7
