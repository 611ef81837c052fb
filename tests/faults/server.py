"""Imports the training program once and forks a process for every run: a start costs 0.1 s instead of 3.

Nothing of torch has run when it forks, there is one thread, and each run is a session of its own with the real ``main``,
real signals and all of an exit that is the program's. One JSON object a line: ``{"start": {...}}`` -> ``{"pid": n}``; ``{"wait": pid, "seconds": s}``
-> ``{"code": n}``, null when it still runs. Negative codes are signals.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

# What runs import by and by: more than half of the time of a run of a few steps.
PRETRAINING = (
    *("numpy.fft", "numpy.random", "numpy.ctypeslib", "PIL.JpegImagePlugin"),
    *("torch._dynamo", "torch.nn.attention.flex_attention", "torch.profiler._cupti_monitor"),
    *("dinov3.train.command", "dinov3.train.job", "dinov3.engine.stages.run", "dinov3.data.sources.imagefolder"),
    *("dinov3.eval.online.rank", "dinov3.objectives.koleo", "dinov3.objectives.feature_distillation"),
)
EVERYTHING = (
    *PRETRAINING,
    *("matplotlib.backends.backend_agg", "matplotlib.figure", "scipy.optimize", "pycocotools.cocoeval", "h5py"),
    *("dinov3.eval.online.labelled", "dinov3.eval.online.pictures", "dinov3.pictures.curves"),
    *("dinov3.finetune.job", "dinov3.finetune.concluding", "dinov3.finetune.curves", "dinov3.finetune.classify"),
    *("dinov3.segment.job", "dinov3.segment.mask_transformer", "dinov3.detect.job", "dinov3.depth.job"),
    *("dinov3.generate.training.job", "dinov3.dense.dpt", "dinov3.pictures.token_sheet"),
)


def preload(names: Sequence[str]) -> None:
    """Import them. What is forked afterwards has them."""
    for name in names:
        with contextlib.suppress(ImportError):  # a package that is not there is the business of the run that needs it
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    gc.collect()
    gc.freeze()  # what is imported is no rubbish: no run searches it, and no page of it is copied for a mark


def main() -> None:
    preload(EVERYTHING)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: dict[str, Any] = {"pid": start(**request["start"])}
        else:
            answer = {"code": wait(request["wait"], request["seconds"])}
        print(json.dumps(answer), flush=True)


def start(main: str, argv: list[str], env: dict[str, str], log: str, prepare: str | None = None) -> int:
    """The process id of a new process that is ``become``."""
    pid = os.fork()
    if pid == 0:
        become(main, argv, env, log, prepare)
    return pid


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
    leave(named(main)(argv))


def leave(code: int) -> NoReturn:
    """What Python does at its end, but for taking every imported module apart: that took longer than a run."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
