"""Faults on purpose, so that tests can show what a run survives. Without DINOV3_FAULT in the environment: nothing.

``DINOV3_FAULT=point@step[:rank][=action]``, several of them with commas. Rank, of all that were started: every process when left out.
Action: ``kill`` (SIGKILL, the default), ``term`` (SIGTERM to this process), ``stall`` (sleep for ever), ``spoil``
(``hit`` returns True and the caller damages what it holds), ``fail`` (OSError: no space left).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from enum import StrEnum

VARIABLE = "DINOV3_FAULT"
_FORM = re.compile(r"(\w+)@(\d+)(?::(\d+))?(?:=(kill|term|stall|spoil|fail))?")


class Point(StrEnum):
    """Where a run can be hit; ``step`` counts finished steps."""

    STEP = "step"  # a batch is there, its update is not
    LOSS = "loss"  # the loss is computed
    GRADIENT = "gradient"  # gradients are there and averaged
    SHARDS = "shards"  # this process has written its tensors; `spoil` leaves half a file and kills
    MANIFEST = "manifest"  # every file is there but the manifest
    RENAME = "rename"  # complete, under its temporary name
    COMMITTED = "committed"  # renamed, nothing else done
    PRUNE = "prune"  # an old checkpoint is renamed, nothing of it is deleted


def hit(point: Point, step: int) -> bool:
    """Do what DINOV3_FAULT asks for here; True for ``spoil``."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return False
    for text in wanted.split(","):
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{VARIABLE}: {text!r} is not point@step[:rank][=action]")
        where, when, who, action = match.groups()
        if Point(where) == point and int(when) == step and who in (None, os.environ.get("RANK", "0")):
            return _act(action or "kill")
    return False


def _act(action: str) -> bool:
    if action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
    if action == "stall":
        time.sleep(10_000)
    if action == "fail":
        raise OSError(errno.ENOSPC, "No space left on device")
    return action == "spoil"
