"""Weights & Biases, in a process of its own, so that nothing it does can delay, end or change a run.

In the training process its library would replace ``sys.exit`` and ``sys.excepthook``, put keys into the environment,
and wait at exit until everything is sent. Here it is a child that gets lines of JSON through a bounded queue.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dinov3.config.schema import WandbConfig
from dinov3.runs.sinks.sink import Row

log = logging.getLogger(__name__)
QUEUE = 10_000  # messages; a row is about 1 kB
# Nothing of the machine, the code or the terminal is sent; who wants it sets the variable.
QUIET = {
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_SILENT": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "WANDB_ERROR_REPORTING": "false",
}


class WandbSink:
    """Sends rows as ``train/*`` over ``train/step`` and ``evaluation/*`` over ``evaluation/step``.

    The first thing that goes wrong is one WARNING; the run never waits, but for at most ``init_timeout`` in ``close``.
    """

    def __init__(self, settings: WandbConfig, out: Path, run_id: str, config: dict[str, Any]) -> None:
        """``run_id``: the same for every turn of a run; ``config``: nested, without secrets."""
        self._timeout, self._started = settings.init_timeout, time.monotonic()
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE)
        self._lock, self._warned = threading.Lock(), False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dinov3.runs.sinks.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=QUIET | os.environ,
            start_new_session=True,  # Ctrl-C and the scheduler's signals are for the training processes
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._listener.start()
        self._sender.start()
        self._put(
            "init",
            {
                "project": settings.project,
                "entity": settings.entity,
                "name": settings.name or out.absolute().name,
                "mode": settings.mode,
                "init_timeout": settings.init_timeout,
                "id": run_id,
                "dir": str(out),
                "config": config,
            },
        )

    def train(self, row: Row) -> None:
        self._put("log", {"train/step": row["iteration"], **{f"train/{k}": v for k, v in row.items()}})

    def evaluation(self, row: Row) -> None:
        self._put("log", {f"evaluation/{k}": v for k, v in row.items()})

    def picture(self, path: Path, step: int) -> None:
        self._put("picture", {"name": f"pictures/{path.stem}", "path": str(path.absolute()), "step": step})

    def close(self) -> None:
        """Wait for what is still to be sent, ``init_timeout`` at most after the attempt to start; then end the process."""
        end = max(time.monotonic(), self._started + self._timeout) + self._timeout
        try:
            self._queue.put(None, timeout=max(0.0, end - time.monotonic()))
            self._sender.join(max(0.0, end - time.monotonic()))
            self._process.wait(max(0.0, end - time.monotonic()))
        except (queue.Full, subprocess.TimeoutExpired):
            self._warn(
                f"not everything was sent within wandb.init_timeout, {self._timeout:g} s: `wandb sync` can do it"
            )
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(1)

    def _put(self, kind: str, content: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(json.dumps([kind, content]) + "\n")
        except queue.Full:
            self._warn(f"{QUEUE} rows are waiting, new ones are dropped; all are in metrics.jsonl")

    def _send(self) -> None:
        """Hand the queue to the child; when the child is gone, empty it."""
        assert self._process.stdin is not None
        pipe, gone = self._process.stdin, False
        while (line := self._queue.get()) is not None:
            try:
                if not gone:
                    pipe.write(line.encode())
                    pipe.flush()
            except OSError:
                gone = True
                self._listener.join()  # its last words say more
                self._warn(f"its process ended with {self._process.wait()}; rows are only in metrics.jsonl from here")
        try:
            pipe.close()
        except OSError:
            log.debug("the process of wandb was gone before the end of its input")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._warn(line.decode(errors="replace").strip())

    def _warn(self, text: str) -> None:
        """The first time a WARNING, then only in the log."""
        with self._lock:
            level, self._warned = logging.INFO if self._warned else logging.WARNING, True
        log.log(level, "wandb: %s", text)
