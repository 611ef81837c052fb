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
from typing import Any

import dinov3.train.command
import dinov3.train.run


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


def become(argv: list[str], env: dict[str, str], log: str, prepare: str | None) -> None:
    """Turn this process into one that was started as ``python -m dinov3.train ARGV``; never returns.

    ``prepare``: ``module:function``, called first.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(env)
    if prepare:
        module, function = prepare.split(":")
        getattr(importlib.import_module(module), function)()
    sys.exit(dinov3.train.command.main(argv))


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
