from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinov3.runs.new_folder import folder_for

CONFIG = {"train": {"seed": 1}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "2026-01-02")
    return tmp_path


def begin(folder: Path, config: object = CONFIG, below: str = "") -> Path:
    (folder / below).mkdir(parents=True)
    (folder / below / "config.json").write_text(json.dumps(config))
    return folder


def test_the_first_run_of_a_day_is_number_one_and_nothing_is_made(here: Path) -> None:
    assert str(folder_for("demo_cpu", CONFIG, anew=False)) == "runs/demo_cpu-2026-01-02-1"
    assert list(here.iterdir()) == []


def test_the_same_command_finds_its_run_again_and_another_gets_the_next_number() -> None:
    first = begin(folder_for("a", CONFIG, anew=False))
    assert folder_for("a", CONFIG, anew=False) == first
    second = begin(folder_for("a", {"train": {"seed": 2}}, anew=False), {"train": {"seed": 2}})
    assert str(second) == "runs/a-2026-01-02-2"
    assert folder_for("a", CONFIG, anew=False) == first
    assert str(folder_for("a", CONFIG, anew=True)) == "runs/a-2026-01-02-3"
    assert str(folder_for("b", CONFIG, anew=False)) == "runs/b-2026-01-02-1"


def test_a_run_of_yesterday_goes_on() -> None:
    yesterday = begin(Path("runs/a-2026-01-01-10"))
    begin(Path("runs/a-2026-01-01-9"))
    assert folder_for("a", CONFIG, anew=False) == yesterday


@pytest.mark.parametrize("below", ["stage-1-first", "vits"])
def test_a_run_of_stages_or_students_is_known_by_one_of_them(below: str) -> None:
    first = begin(folder_for("a", CONFIG, anew=False), below=below)
    assert folder_for("a", CONFIG, anew=False) == first


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"{" * 100_000])
def test_a_damaged_config_is_another_run(content: bytes) -> None:
    first = begin(folder_for("a", CONFIG, anew=False))
    (first / "config.json").write_bytes(content)
    assert str(folder_for("a", CONFIG, anew=False)) == "runs/a-2026-01-02-2"


def test_a_name_with_signs_of_a_pattern_is_a_name() -> None:
    first = begin(folder_for("a[1]*", CONFIG, anew=False))
    assert folder_for("a[1]*", CONFIG, anew=False) == first
