from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from dinov3.config.dump import to_dict
from dinov3.config.schema import Config
from dinov3.runs.folder import RunFolder
from dinov3.runs.recorded import read_config, recorded_config

DAMAGE = {
    "empty": b"",
    "cut": b'{"train": {"seed": 1}, "opt',
    "not UTF-8": b"\xff\xfe{",
    "a block that is none": b'{"train": 5}',
    "null": b"null",
    "a list": b"[1]",
    "nothing": b"{}",
    "nested": b'{"a":' * 100_000,
    "a long number": b'{"train": ' + b"1" * 5000 + b"}",
    "zeros of a power cut": bytes(300),
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run, and a checkpoint that carries its config."""
    kept = to_dict(Config())
    checkpoint = tmp_path / "ckpt" / "step-00000001"
    checkpoint.mkdir(parents=True)
    state = {"counters": {"step": 1, "samples": 1}, "config": kept}
    (checkpoint / "train_state.json").write_text(json.dumps(state))
    (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 2, "files": {}}))
    found = RunFolder(tmp_path)
    found.config_json.write_text(json.dumps(kept))
    return found


def newest(run: RunFolder) -> Path:
    return run.path / "ckpt" / "step-00000001"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_config_is_said_and_the_checkpoints_copy_is_taken(
    damage: str, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run.config_json.write_bytes(DAMAGE[damage])
    with caplog.at_level(logging.WARNING):
        assert recorded_config(run, Config, newest(run)) == to_dict(Config())
    (said,) = caplog.messages
    assert "damaged" in said
    assert str(newest(run)) in said
    assert "\n" not in said
    content, problem = read_config(run, Config)
    assert content is None
    assert problem is not None
    assert "\n" not in problem


def test_without_a_copy_what_has_changed_cannot_be_told(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run.config_json.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert recorded_config(run, Config) is None
    assert "what has changed since the start cannot be told" in caplog.text


def test_a_whole_one_is_taken_as_it_is_and_none_is_no_damage(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    assert recorded_config(run, Config, newest(run)) == to_dict(Config())
    run.config_json.unlink()
    assert recorded_config(run, Config, newest(run)) is None
    assert caplog.messages == []
