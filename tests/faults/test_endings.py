"""F10: a run that is killed after its last step: the same command removes what is left of the save and adds what is missing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.faults.conftest import Reference
from tests.faults.runs import KEEP, Launcher, assert_same, files, names
from tests.train.tiny import TOTAL_STEPS

KILLED = -signal.SIGKILL


# committed: an old checkpoint too many; prune: one that is renamed and not deleted
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("point", ["committed", "prune"])
def test_what_a_kill_in_the_last_save_leaves_is_removed_and_nothing_else_changes(
    runs: Launcher, reference: Reference, tmp_path: Path, point: str, ranks: int
) -> None:
    out = tmp_path / "run"
    assert KILLED in runs.run(out, ranks=ranks, fault=f"{point}@{TOTAL_STEPS}:0")
    assert len(names(out)) == KEEP + 1
    before = files(out)
    assert runs.run(out, ranks=ranks) == [0] * ranks
    assert_same(out, reference(ranks))
    after = files(out)
    assert {name for name in before if after.get(name) != before[name]} - {".lock", ".lease", "ckpt"} == {
        name for name in before if "step-00000006" in name
    }
    assert after.keys() <= before.keys()
    text = (tmp_path / "run.log").read_text()
    assert text.count("removed what a killed run left") == 1, "said by one process"
    assert runs.run(out, ranks=ranks) == [0] * ranks
    assert files(out) == after


SHOWN: dict[str, Any] = {
    "evaluation__pictures": "true",
    "evaluation__drift__enabled": "true",
    "evaluation__drift__images": 8,
}


# the second measurement is that of the end
@pytest.mark.parametrize("work", ["fixed_tokens:2", "curves:1", pytest.param("pca_sheet:1", marks=pytest.mark.nightly)])
def test_a_run_killed_at_its_last_evaluation_or_in_its_pictures_gets_them(
    runs: Launcher, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, work: str
) -> None:
    expected = tmp_path_factory.getbasetemp() / "shown"
    if not expected.exists():
        assert runs.run(expected, **SHOWN) == [0]
    out = tmp_path / "run"
    killed = {"prepare": "tests.faults.hooks:killed_at_work", "env": {"AT": work}}
    assert runs.run(out, **killed, **SHOWN) == [KILLED]
    assert not (out / "pca.png").exists()
    assert runs.run(out, **SHOWN) == [0]
    assert_same(out, expected)
    assert (out / "evaluation.jsonl").read_text() == (expected / "evaluation.jsonl").read_text()
    assert (out / "pca.png").read_bytes() == (expected / "pca.png").read_bytes()
    assert Image.open(out / "curves.png").size == Image.open(expected / "curves.png").size
    assert {p.name for p in out.iterdir()} == {p.name for p in expected.iterdir()}, "nothing half written"
    after = files(out)
    assert runs.run(out, **SHOWN) == [0]
    assert files(out) == after


def test_a_run_stopped_by_an_evaluation_and_killed_in_that_save_ends_tidily(runs: Launcher, tmp_path: Path) -> None:
    rule = {**SHOWN, "evaluation__pictures": "false", "evaluation__drift__period": 9, "optim__lr": 0.1}
    rule["evaluation__drift__stop_below"] = 0.9999
    out = tmp_path / "run"
    assert runs.run(out, fault="committed@9", **rule) == [KILLED]
    assert len(names(out)) == KEEP + 1
    for _ in range(2):
        assert runs.run(out, **rule) == [71]
        assert names(out) == ["step-00000006", "step-00000009"]
