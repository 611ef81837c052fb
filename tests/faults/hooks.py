"""What ``prepare`` does to a run before it begins: disks that fill up, images that hang, records of every step."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dinov3.data import slot_writer as samples
from dinov3.distributed.context import rank
from dinov3.engine import trainer
from dinov3.engine.saver import Saver
from dinov3.eval.online import drift, pictures
from dinov3.pictures import curves
from dinov3.runs import checkpoint, signals
from dinov3.runs.state import digest, training_tensors

SAVE = 6  # the step whose save meets trouble


def during_a_save(trouble: Callable[[], Any]) -> None:
    """Enter the context ``trouble()`` for the save of step 6."""
    real = checkpoint.Checkpointer.save

    def save(self: Any, step: int, *args: Any) -> Any:
        with trouble() if step == SAVE else contextlib.nullcontext():
            return real(self, step, *args)

    checkpoint.Checkpointer.save = save  # type: ignore[method-assign]


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    real = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, real)


def raising(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def disk_almost_full() -> None:
    free = os.statvfs_result((4096, 4096, 100, 10, 10, 0, 0, 0, 0, 255))
    during_a_save(lambda: replaced(os, "statvfs", lambda _: free))


def read_only() -> None:
    during_a_save(lambda: replaced(Path, "mkdir", raising(errno.EROFS)))


def io_error() -> None:
    during_a_save(lambda: replaced(os, "fsync", raising(errno.EIO)))


def files_limited() -> None:
    """A real limit of the kernel: no file may grow beyond 100 kB."""

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    during_a_save(limited)


def digests() -> None:
    """``DIGESTS.<rank>``: a JSON line for every step with the state's sha256 before and after it."""
    real = trainer.train_step

    def train_step(task: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        before = digest(training_tensors(task.model, task.state(), optimizer))
        result = real(task, optimizer, *args, **kwargs)
        after = digest(training_tensors(task.model, task.state(), optimizer))
        row = {"step": kwargs["step"], "taken": result.taken, "before": before, "after": after}
        with Path(f"{os.environ['DIGESTS']}.{rank()}").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return result

    trainer.train_step = train_step


def spoiled_batch() -> None:
    """One pixel of step 4's global crops is nan, on the last process."""
    real = trainer.train_step

    def train_step(task: Any, optimizer: Any, now: Any, batch: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 4 and rank() == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            batch.collated_global_crops[0, 0, 0, 0] = torch.nan
        return real(task, optimizer, now, batch, **kwargs)

    trainer.train_step = train_step
    digests()


def spoiled_ema() -> None:
    """After step 5 one number of the EMA teacher is inf: step 6 is the next to be saved."""
    real = trainer.train_step

    def train_step(task: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(task, *args, **kwargs)
        if kwargs["step"] == 5:
            next(task.model.model_ema.parameters()).data.view(-1)[0] = torch.inf
        return result

    trainer.train_step = train_step


def hung_image() -> None:
    """The 37th image that is read hangs."""
    real, count = samples.read_image, iter(range(10_000))

    def read_image(*args: Any, **kwargs: Any) -> Any:
        if next(count) == 37:
            time.sleep(1000)
        return real(*args, **kwargs)

    samples.read_image = read_image  # type: ignore[attr-defined]


def vanishing_files() -> None:
    """The files named in ``VANISH``, one a line, are deleted before step 3."""
    real = trainer.train_step

    def train_step(*args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 3:
            for name in os.environ["VANISH"].split("\n"):
                os.unlink(name)
        return real(*args, **kwargs)

    trainer.train_step = train_step


def every_signal_counts() -> None:
    """Two requests to stop are two, however close."""
    signals.SAME_REQUEST = 0.0


def killed_at_work() -> None:
    """SIGKILL in the middle of a function that a look calls: ``AT`` is its name and the number of the call.

    A file that it is given to write is half written.
    """
    name, _, number = os.environ["AT"].partition(":")
    owner: Any = {"fixed_tokens": drift, "curves": curves}.get(name, pictures)
    real, count = getattr(owner, name), iter(range(1, 1000))

    def killed(*args: Any) -> Any:
        if next(count) != int(number):
            return real(*args)
        for path in args:
            if isinstance(path, Path) and path.suffix:
                path.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killed)


def half_an_export() -> None:
    """SIGKILL when half of an exported file is written."""

    def save(content: Any, file: BinaryIO) -> None:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


def hygiene() -> None:
    """``HYGIENE``: a JSON line after every save with what this process holds."""
    real = Saver.save

    def save(self: Any, run: Any, *, must: bool) -> None:
        real(self, run, must=must)
        row = {
            "step": run.counters.step,
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "children": len(multiprocessing.active_children()),
            "shared_memory": len(os.listdir("/dev/shm")),
            "megabytes": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6,
        }
        with open(os.environ["HYGIENE"], "a") as file:
            file.write(json.dumps(row) + "\n")

    Saver.save = save  # type: ignore[method-assign]


def held_save() -> None:
    """The save of step 6 begins to write once a file of the run says so: ``UNTIL`` is ``name:text``; an error after five minutes."""
    name, _, text = os.environ["UNTIL"].partition(":")
    real = checkpoint.Checkpointer.save

    def save(self: Any, step: int, *args: Any) -> Any:
        end, file = time.monotonic() + 300, self.folder.parent / name
        while step == SAVE and not (file.exists() and text in file.read_text()):
            if time.monotonic() > end:
                raise RuntimeError(f"{text!r} did not appear in {file}")
            time.sleep(0.01)
        return real(self, step, *args)

    checkpoint.Checkpointer.save = save  # type: ignore[method-assign]


def slow_step() -> None:
    """Step 2, after which comes a save, takes 1.6 s longer."""
    real = trainer.train_step

    def train_step(*args: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 2:
            time.sleep(1.6)
        return real(*args, **kwargs)

    trainer.train_step = train_step
