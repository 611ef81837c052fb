"""Runs that can be killed, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.manifest import problem_with
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from tests.train.tiny import overrides

MEASURED = ("images_per_second", "data_wait", "checkpoint_seconds", "checkpoint_blocked_seconds", "checkpoint_bytes")
PERIOD = 3
KEEP = 2
PATIENCE = 300.0  # seconds after which what did not happen is called missing; on an idle machine all of it takes a few
SETTINGS = {
    "checkpointing__period": PERIOD,
    "checkpointing__max_to_keep": KEEP,
    "evaluation__pictures": "false",
}


class Launcher:
    """Starts runs through one ``tests.faults.server``, on 64 small JPEGs."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self.seconds: dict[int, float] = {}  # that a whole run of so many processes took, the last time
        if not images.exists():
            write_images(images, 64)
        root = Path(__file__).resolve().parents[2]
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults.server"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def close(self) -> None:
        self._server.kill()  # it holds nothing but imports
        self._server.wait()

    def start(
        self,
        out: Path,
        *flags: str,
        ranks: int = 1,
        fault: str = "",
        prepare: str | None = None,
        env: dict[str, str] | None = None,
        file: Path | None = None,
        main: str = "dinov3.train.command:main",
        words: list[str] | None = None,
        **changes: object,
    ) -> Job:
        """Start a run of ``ranks`` processes in ``out``; ``changes`` are config keys with ``__`` for the dot.

        ``flags`` come last; ``file``: a YAML in place of the tiny run's settings; ``prepare``: a function of tests/faults/hooks.py, called before the run begins;
        ``main`` and ``words``: another training command and its arguments.
        """
        settings = {**SETTINGS, "train__dataset_path": self.images, "train__batch_size_per_gpu": 8 // ranks, **changes}
        if words is None:
            words = overrides(**settings) if file is None else ["--config-file", str(file)]
        argv = ["--output-dir", str(out), *words, *flags]
        env = {"DINOV3_FAULT": fault, **(env or {})}
        if ranks > 1:
            env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            env["MASTER_PORT"] = str(free_port())
        out.parent.mkdir(parents=True, exist_ok=True)
        log = out.parent / f"{out.name}.log"
        pids = []
        for rank in range(ranks):
            own = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else env
            pids.append(self._fork(main, argv, own, log, prepare))
        return Job(self, out, log, pids)

    def call(self, main: str, argv: list[str], log: Path, *, prepare: str | None = None) -> Job:
        """Another command in a process of its own."""
        return Job(self, log.parent, log, [self._fork(main, argv, {}, log, prepare)])

    def _fork(self, main: str, argv: list[str], env: dict[str, str], log: Path, prepare: str | None) -> int:
        answer = self.ask(start={"main": main, "argv": argv, "env": env, "log": str(log), "prepare": prepare})
        return int(answer["pid"])

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a process of a run, if it is still there (it is not reaped before it is waited for)."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def run(self, out: Path, *flags: str, **options: Any) -> list[int]:
        """Start and wait; exit codes by rank, negative for signals."""
        began = time.monotonic()
        codes = self.start(out, *flags, **options).wait()
        if set(codes) == {0}:
            self.seconds[len(codes)] = time.monotonic() - began
        return codes


@dataclass
class Job:
    """A run in progress."""

    launcher: Launcher
    out: Path
    log: Path
    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """Exit codes by rank. When one process dies by SIGKILL the others are killed too, as torchrun does."""
        end = time.monotonic() + seconds
        while len(self.codes) < len(self.pids):
            for pid in self.pids:
                if pid not in self.codes:
                    code = self.launcher.ask(wait=pid, seconds=0.02)["code"]
                    if code is not None:
                        self.codes[pid] = code
            if -signal.SIGKILL in self.codes.values():
                self.signal(signal.SIGKILL)
            if time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s: {self.text()[-3000:]}")
        return [self.codes[pid] for pid in self.pids]

    def signal(self, number: int) -> None:
        for pid in self.pids:
            if pid not in self.codes:
                self.launcher.kill(pid, number)

    def text(self) -> str:
        """All that the processes have printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for_step(self, step: int, seconds: float = PATIENCE) -> None:
        """Return when ``step`` is in metrics.jsonl."""
        end = time.monotonic() + seconds
        while not any(row["iteration"] >= step for row in read_rows(self.out / "metrics.jsonl")):
            assert time.monotonic() < end, f"step {step} was not reached: {self.text()[-3000:]}"
            time.sleep(0.005)


def write_images(folder: Path, n: int) -> None:
    """JPEGs of 40 x 48 px, no two alike."""
    folder.mkdir(parents=True)
    for number in range(n):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def history(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured by a clock; floats as hex, so that equal means every bit."""
    return [
        {k: v.hex() if isinstance(v, float) else v for k, v in row.items() if k not in MEASURED}
        for row in read_rows(out / "metrics.jsonl")
    ]


def final_state(out: Path) -> str:
    """sha256 over student, EMA, optimizer and everything else in the last checkpoint."""
    return digest(read_tensors(step_folders(out)[-1] / "state", prefix=""))


def names(out: Path) -> list[str]:
    """What is in the checkpoint folder."""
    return sorted(p.name for p in (out / "ckpt").iterdir())


def files(out: Path) -> dict[str, tuple[int, int]]:
    """Everything in a run folder, with what tells a change; not the sign of life a run gives every few seconds."""
    found = [p for p in out.rglob("*") if p.name != ".lease"]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, p.stat().st_size) for p in found}


def whole(out: Path) -> list[int]:
    """Steps of the checkpoints that verify."""
    return [int(p.name[-8:]) for p in step_folders(out) if problem_with(p) is None]


def assert_same(out: Path, reference: Path) -> None:
    """Every loss of every step, each step once, and the final state are the reference's, bit for bit; no litter."""
    assert history(out) == history(reference)
    assert final_state(out) == final_state(reference)
    assert names(out) == names(reference)


@contextlib.contextmanager
def launcher(images: Path) -> Iterator[Launcher]:
    server = Launcher(images)
    try:
        yield server
    finally:
        server.close()
