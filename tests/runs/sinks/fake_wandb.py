"""A wandb for tests: writes its calls to FAKE_WANDB_CALLS and fails as FAKE_WANDB says."""

from __future__ import annotations

import json
import os
import time
from typing import Any

BEHAVIOUR = os.environ.get("FAKE_WANDB", "")
if BEHAVIOUR == "missing":
    raise ImportError("No module named 'wandb'")


def note(name: str, /, **content: Any) -> None:
    with open(os.environ["FAKE_WANDB_CALLS"], "a") as file:
        file.write(json.dumps([name, content]) + "\n")


class Settings(dict[str, Any]):
    def __init__(self, **values: Any) -> None:
        super().__init__(values)


def Image(path: str) -> str:
    return f"image of {os.path.getsize(path)} bytes" if os.path.exists(path) else "no image"


class Run:
    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        note("define_metric", name=name, step_metric=step_metric)

    def log(self, content: dict[str, Any]) -> None:
        if BEHAVIOUR == "dies" and content.get("train/step") == 1:
            raise BrokenPipeError("the service is gone")
        if BEHAVIOUR == "killed" and content.get("train/step") == 1:
            os._exit(9)
        if BEHAVIOUR == "disk full" and "train/step" in content:
            raise OSError(28, "No space left on device")
        if BEHAVIOUR == "hangs later" and content.get("train/step") == 1:
            time.sleep(600)
        note("log", **content)

    def finish(self) -> None:
        note("finish")


def init(**options: Any) -> Run:
    note("init", pid=os.getpid(), **options)
    if options["mode"] == "online" and BEHAVIOUR == "no key":
        raise ValueError("No API key configured")
    if options["mode"] == "online" and BEHAVIOUR == "unreachable":
        time.sleep(min(1.0, options["settings"]["init_timeout"]))  # as long as the real one would, but for the waiting
        raise TimeoutError("no answer")
    if BEHAVIOUR == "hangs":
        time.sleep(600)
    return Run()


def teardown() -> None:
    note("teardown")
