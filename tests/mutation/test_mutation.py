from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.mutation.changes import CHANGES, ROOT, Change


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.title[:60])
def test_a_listed_change_can_be_made_and_names_tests_that_exist(change: Change) -> None:
    text = change.place(ROOT).read_text()
    assert change.old != change.new
    changed = ast.parse(text.replace(change.old, change.new))
    assert ast.dump(changed) != ast.dump(ast.parse(text)), "it changes no comment only"
    for test in change.tests.split():
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / "tests" / path).read_text()


def test_there_are_enough_changes_and_no_two_alike() -> None:
    assert len(CHANGES) >= 40
    assert len({(change.file, change.old, change.new) for change in CHANGES}) == len(CHANGES)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_change_of_a_number_survives() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.mutation"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
