"""Commands on an accelerator, as far as a machine without one can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands_elsewhere import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DAILY = ["refusals", "pieces"]


def judge(commands: list[str]) -> None:
    """Each ends well, and has computed on the accelerator."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands_elsewhere", *commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if rows and "missing" in rows[0]:
        pytest.skip(rows[0]["missing"])
    assert [row["command"] for row in rows] == commands, done.stderr[-2000:]
    for row in rows:
        assert (row["code"], row["error"]) == (0, None), f"{row}\n{done.stderr[-4000:]}"
        assert row["there"] > 20, f"{row['command']}: computed elsewhere"


def test_what_takes_tensors_keeps_to_their_device() -> None:
    judge(DAILY)


@pytest.mark.nightly
def test_every_command_keeps_to_the_device_it_has_chosen() -> None:
    judge([name for name in COMMANDS if name not in DAILY])
