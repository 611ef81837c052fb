"""Every command in places that are not a developer's own machine: no home, nothing writable, no terminal, no reader."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dinov3.cli import COMMANDS
from tests.every_command import commands

ROOT = Path(__file__).resolve().parents[1]
LONG = "/".join(["a" * 200] * 15)  # 3,000 characters: a tenth of systems' pipelines name folders by their parameters
SHORT_OF_ROOT = "mount --bind {work} {work} && mount -o remount,bind,ro / && exec "


@dataclass(frozen=True)
class Environment:
    """What differs from a developer's machine."""

    at: Callable[[Path], str] = str  # how the folder of all files is written on the command line
    variables: dict[str, str | None] = field(default_factory=dict)
    shell: str = ""  # what a shell does first
    namespace: bool = False  # in mounts of its own
    terminal: bool = True
    refused: tuple[str, ...] = ()  # commands that say in one line that they cannot work so


def below_home(work: Path) -> str:
    return "~"


def far_down(work: Path) -> str:
    deep = work / LONG
    deep.mkdir(parents=True)
    return str(deep)


def far_below_home(work: Path) -> str:
    far_down(work)
    return f"~/{LONG}"


NO_HOME = {"HOME": None, "XDG_CACHE_HOME": None, "USER": None, "LOGNAME": None}
PLAIN = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
# Several at once, for they do not meet: what `make test` runs. One that fails is found among those below.
TOGETHER = {
    "a read-only root, no home and everything closed": Environment(
        shell="exec 0<&- 1>&- 2>&-; " + SHORT_OF_ROOT, namespace=True, variables=NO_HOME
    ),
    # a script that is printed could not hold the bytes of a name
    "LANG=C, a path of 3,000 characters below a tilde, umask 077 and no terminal": Environment(
        variables=PLAIN, refused=("submit",), at=far_below_home, shell="umask 077; exec setsid ", terminal=False
    ),
}
ALONE = {
    "nothing special": Environment(),
    "a read-only root": Environment(shell=SHORT_OF_ROOT, namespace=True),
    "no home": Environment(variables=NO_HOME),
    "umask 077": Environment(shell="umask 077; exec "),
    "a path of 3,000 characters": Environment(at=far_down),
    "LANG=C": Environment(variables=PLAIN, refused=("submit",)),
    "a Latin-1 console": Environment(variables={"PYTHONIOENCODING": "latin-1"}),
    "no controlling terminal": Environment(shell="exec setsid ", terminal=False),
    "a tilde in every path": Environment(at=below_home),
    "everything closed": Environment(shell="exec 0<&- 1>&- 2>&-; exec "),
    "standard error closed": Environment(shell="exec 2>&-; exec "),
    "nobody reads": Environment(shell="exec > >(exec true) 2>&1; sleep 0.2; exec "),
}
ENVIRONMENTS = TOGETHER | ALONE


def in_environment(environment: Environment, work: Path) -> list[dict[str, object]]:
    """The rows of tests/every_command.py run in ``environment``."""
    work.mkdir()
    results = work.parent / "results.jsonl" if not environment.namespace else work / "results.jsonl"
    variables = {**os.environ, "HOME": str(work), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    variables["XDG_CACHE_HOME"] = str(work / "kept")
    for name, value in environment.variables.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    words = [sys.executable, "-m", "tests.every_command", environment.at(work), str(results)]
    shell = environment.shell.format(work=work) + '"$@"'
    command = ["bash", "-c", shell, "bash", *words] if environment.shell else words
    if environment.namespace:
        command = ["unshare", "-rm", *command]
    done = subprocess.run(
        command,
        cwd=work,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=900,
        start_new_session=not environment.terminal,
    )
    assert results.exists(), done.stderr[-2000:]
    return [json.loads(line) for line in results.read_text().splitlines()]


def namespaces() -> bool:
    """Whether this machine lets a test have mounts of its own."""
    if shutil.which("unshare") is None:
        return False
    shell = "mount --bind /tmp /tmp && mount -o remount,bind,ro /"
    return subprocess.run(["unshare", "-rm", "bash", "-c", shell], capture_output=True).returncode == 0


def test_the_list_has_every_command() -> None:
    assert {words[0] for words in commands("")} == set(COMMANDS)


@pytest.mark.parametrize("name", [*TOGETHER, *(pytest.param(name, marks=pytest.mark.nightly) for name in ALONE)])
def test_every_command_works_with(name: str, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    if environment.namespace and not namespaces():
        pytest.skip("needs mounts of its own: unshare -rm")
    work = tmp_path / "work"
    rows = in_environment(environment, work)
    # the doctor may find something to repair on the machine that runs the tests
    may = {("doctor", 1), *([] if importlib.util.find_spec("shtab") else [("completion", 78)])}
    may |= {(command, 78) for command in environment.refused}
    wrong = [row for row in rows if row["code"] != 0 and (row["words"][0], row["code"]) not in may]  # type: ignore[index]
    assert wrong == []
    assert len(rows) == len(commands(""))
    made = {path.name for path in work.iterdir()}
    assert not [folder for folder in made if folder.startswith("~")]
    if name == "umask 077":
        assert (work / "run" / "metrics.jsonl").stat().st_mode & 0o077 == 0
