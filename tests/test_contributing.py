"""CONTRIBUTING.md, followed to the letter in a copy of the program: every example works, and touches what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dinov3.system.rows import read_rows
from tests.train.tiny import OVERRIDES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
KINDS = ["teacher", "loss", "setting", "source", "online metric", "command", "recipe"]


class Step(NamedTuple):
    """One thing to add."""

    file: str | None  # the new one
    content: str
    table: str | None  # the file that gets a line
    anchor: str  # the line before it
    line: str


def steps() -> dict[str, Step]:
    """What the text says is to be done, by kind."""
    found = {}
    for section in re.split(r"^### An? ", TEXT, flags=re.MULTILINE)[1:]:
        file = re.search(r"New file `([^`]+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL)
        line = re.search(r"Line in `([^`]+)`, after `([^`]+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL)
        new, lines = file.groups() if file else (None, ""), line.groups() if line else (None, "", "")
        found[section.partition("\n")[0]] = Step(*new, *lines)
    return found


def follow(step: Step, tree: Path) -> tuple[int, int]:
    """Do it; how many files and lines of those that were there have changed."""
    if step.file is not None:
        assert not (tree / step.file).exists()
        (tree / step.file).write_text(step.content)
    if step.table is None:
        return 0, 0
    table = tree / step.table
    before = table.read_text().splitlines()
    (place,) = [i for i, line in enumerate(before) if line.strip() == step.anchor]
    after = [*before[: place + 1], *step.line.splitlines(), *before[place + 1 :]]
    table.write_text("\n".join(after) + "\n")
    return 1, len(after) - len(before)


class Copy(NamedTuple):
    """The program with all that was added."""

    path: Path
    touched: dict[str, tuple[int, int]]  # by kind: files, lines

    def run(self, *words: str) -> str:
        """What ``python WORDS`` prints, in the copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=self.path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    tree = tmp_path_factory.mktemp("copy")
    for name in ("dinov3", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return Copy(tree, {kind: follow(step, tree) for kind, step in steps().items()})


def test_the_text_shows_each_of_them_once_and_with_a_new_file() -> None:
    assert list(steps()) == KINDS
    assert [kind for kind, step in steps().items() if step.file is None] == ["setting"]
    assert TEXT.count("New file `") == len(KINDS) - 1


def test_the_table_says_what_was_touched(copy: Copy) -> None:
    said = re.findall(r"^\| ([a-z ]+) \|[^|]*\| (\d+) files?, (\d+) lines? \|$", TEXT, re.MULTILINE)
    assert {kind: (int(files), int(lines)) for kind, files, lines in said} == copy.touched
    assert max(copy.touched.values()) == (1, 1)


def test_one_run_has_the_recipe_the_source_the_teacher_the_loss_and_the_metric(copy: Copy) -> None:
    recipe = steps()["recipe"].file
    tiny = [f"{key}={value}" for key, value in OVERRIDES.items() if key != "train.dataset_path"]
    words = ["--config-file", str(recipe), "--output-dir", "run", *tiny, "train.max_steps=2", "train.device=cpu"]
    said = copy.run("-m", "dinov3.train", *words)
    assert "Stripes:n=1000" in said
    losses = [row["mirror_loss"] for row in read_rows(copy.path / "run" / "metrics.jsonl")]
    assert len(losses) == 2
    assert all(0 < loss < 2 for loss in losses)
    rows = read_rows(copy.path / "run" / "evaluation.jsonl")
    assert [row["step"] for row in rows] == [0, 2]
    assert all(row["cls_norm"] > 0 for row in rows)


def test_the_command_is_there(copy: Copy) -> None:
    said = copy.run("-m", "dinov3.cli", "names", "Stripes:n=3")
    assert said.splitlines() == [f"Stripes:seed=0 picture {i}" for i in range(3)]
    assert re.search(r"^ +names +what the images", copy.run("-m", "dinov3.cli", "--help"), re.MULTILINE)


def test_the_examples_keep_the_house_rules(copy: Copy) -> None:
    added = [name for step in steps().values() for name in (step.file, step.table) if name and name.endswith(".py")]
    copy.run("-m", "ruff", "check", "--no-cache", *added)
    copy.run("-m", "ruff", "format", "--no-cache", "--check", *added)
