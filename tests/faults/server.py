"""Imports the training program once and forks a process for every run: a start costs 0.1 s instead of 3.

Nothing of torch has run when it forks, there is one thread, and each run is a session of its own with the real ``main``,
real signals and a real exit. One JSON object a line: ``{"start": {...}}`` -> ``{"pid": n}``; ``{"wait": pid, "seconds": s}``
-> ``{"code": n}``, null when it still runs. Negative codes are signals.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import matplotlib.backends.backend_agg
import matplotlib.figure
import numpy.fft
import numpy.random
import torch._dynamo
import torch.nn.attention.flex_attention  # with the lines above: half of what a run imports by and by

import dinov3.data.sources.imagefolder
import dinov3.engine.stages.run
import dinov3.train.command
import dinov3.train.job

LOADED = (matplotlib, numpy, torch, dinov3)


def main() -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                become(**request["start"])
            answer: dict[str, Any] = {"pid": pid}
        else:
            answer = {"code": wait(request["wait"], request["seconds"])}
        print(json.dumps(answer), flush=True)


def become(main: str, argv: list[str], env: dict[str, str], log: str, prepare: str | None) -> None:
    """Turn this process into one that was started with a ``main`` and its arguments; never returns.

    ``main`` and ``prepare``, which is called first: ``module:function``.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(env)
    if prepare:
        named(prepare)()
    sys.exit(named(main)(argv))


def named(text: str) -> Callable[..., Any]:
    module, function = text.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)


if __name__ == "__main__":
    main()
