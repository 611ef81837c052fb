"""Filling slots ahead of the consumer, in other processes or in this one.

A batch is cut into chunks of a few images, so that all workers share the next batch instead of each making its own:
the first batch comes soon and the ring is small. Workers take the next chunk from a shared counter; a semaphore counts
how many chunks lie in free slots. Only the number of a finished chunk and the names of bad images cross the border
between processes. Workers keep no state, so they are ended by SIGKILL.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Lock, Semaphore
from multiprocessing.util import Finalize
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample
from dinov3.data.errors import DataError, LoaderError, LoaderHang, TooManyBadSamples
from dinov3.data.ring import Ring, SharedBytes
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources.mixture import order_of
from dinov3.system import forkserver
from dinov3.system.patience import Patience
from dinov3.system.signal_mask import signals_blocked

CHUNK = 8  # images a task: fewer cost more messages, more keep the first batch waiting
PREFETCH = 2  # chunks a worker may be ahead
ORPHAN_CHECK = 2.0  # seconds between looks whether the training process is still there
IDLE = -1


class Filler(Protocol):
    """Makes the batches of a run in order. Batch numbers count from 0 at the position it was started with."""

    @property
    def slots(self) -> int:
        """Batches it can hold."""
        ...

    @property
    def memory(self) -> Tensor:
        """All its slots ``[bytes]`` uint8."""
        ...

    def wait(self, batch: int) -> list[BadSample]:
        """Return when the slot of ``batch`` is full: the images that could not be read."""
        ...

    def ready(self, batch: int) -> bool:
        """Whether ``wait`` would return at once."""
        ...

    def slot(self, batch: int) -> Tensor:
        """The full slot ``[bytes]`` uint8."""
        ...

    def release(self) -> None:
        """The oldest slot handed out is not needed any more."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class InlineFiller:
    """Fills the one slot it has when asked."""

    def __init__(self, writer: SampleWriter, position: int) -> None:
        self.writer, self.position, self.slots = writer, position, 1
        self.memory = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)

    def wait(self, batch: int) -> list[BadSample]:
        position, part = self.writer.batch_at(self.position, batch)
        return self.writer.fill(self.memory, position, 0, self.writer.batch_size, part=part)

    def ready(self, batch: int) -> bool:
        return False

    def slot(self, batch: int) -> Tensor:
        return self.memory

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Job:
    """All a worker process needs."""

    writer: SampleWriter
    position: int
    ring: Ring
    chunks: int  # of a batch
    next_chunk: SharedBytes  # [1] int64: the first chunk nobody has taken
    at_work_on: SharedBytes  # [workers] int64: the position of the sample each works on, or IDLE
    lock: Lock  # of next_chunk
    credits: Semaphore  # chunks that may be taken


@dataclass(frozen=True)
class Done:
    """A chunk is written."""

    chunk: int
    bad: list[BadSample]


@dataclass(frozen=True)
class Failed:
    """A worker cannot go on."""

    kind: str
    text: str


def work(job: Job, worker: int, connection: Connection) -> None:
    """The life of a worker process: write chunk after chunk until killed, orphaned or failed."""
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGQUIT, all_threads=True)  # the training process asks so when this one hangs
    parent = os.getppid()
    next_chunk = job.next_chunk.tensor.view(torch.int64)
    at_work_on = job.at_work_on.tensor.view(torch.int64)[worker]
    try:
        while True:
            if not job.credits.acquire(timeout=ORPHAN_CHECK):
                if orphaned(parent):
                    return
                continue
            with job.lock:
                chunk = int(next_chunk[0])
                next_chunk[0] += 1
            batch, piece = divmod(chunk, job.chunks)
            position, part = job.writer.batch_at(job.position, batch)
            start, stop = piece * CHUNK, min((piece + 1) * CHUNK, job.writer.batch_size)
            bad = job.writer.fill(job.ring.slot(batch), position, start, stop, at_work_on, part=part)
            at_work_on.fill_(IDLE)
            connection.send(Done(chunk, bad))
    except (DataError, TooManyBadSamples) as error:
        connection.send(Failed(type(error).__name__, str(error)))
    except BrokenPipeError:
        return  # the training process is gone
    except Exception:
        connection.send(Failed("Exception", traceback.format_exc()))
        raise


def orphaned(parent: int) -> bool:
    """Whether the process that started this one has ended."""
    starter = multiprocessing.parent_process()
    return os.getppid() != parent or (starter is not None and not starter.is_alive())


class WorkerPool:
    """Fills the slots of a ring with ``workers`` processes.

    ``timeout`` (seconds): how long nothing may happen while a batch is waited for. ``start_method``: fork, spawn or
    forkserver, as in ``multiprocessing``; None: forkserver, which copies neither this process's threads nor its memory.
    """

    def __init__(
        self, writer: SampleWriter, position: int, workers: int, timeout: float, start_method: str | None = None
    ) -> None:
        self._timeout = timeout
        self._writer = writer
        self._chunks = -(-writer.batch_size // CHUNK)
        slots = -(-workers * PREFETCH // self._chunks) + 2  # one at the consumer, one on its way to the device
        context = forkserver.context(
            start_method or "forkserver", __name__
        )  # torch is imported once, not by every worker
        with signals_blocked():  # SLURM's SIGUSR2 would end it; by itself, for it takes the mask away from what follows
            forkserver.start_tracker()
        self._job = Job(
            writer=writer,
            position=position,
            ring=Ring(slots, writer.resolutions.slot_bytes),
            chunks=self._chunks,
            next_chunk=SharedBytes(8),
            at_work_on=SharedBytes(8 * workers),
            lock=context.Lock(),
            credits=context.Semaphore(slots * self._chunks),
        )
        self._at_work_on = self._job.at_work_on.tensor.view(torch.int64).fill_(IDLE)
        self._finished: Counter[int] = Counter()  # chunks by batch
        self._bad: defaultdict[int, list[tuple[int, list[BadSample]]]] = defaultdict(list)
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        # Runs before multiprocessing's own clean-up, which would wait for ever for workers that are deaf to SIGTERM.
        self._end = Finalize(self, end, args=(self._processes, self._connections), exitpriority=100)
        try:
            with signals_blocked():
                for worker in range(workers):
                    self._start(context, worker)
        except BaseException:
            self.close()
            raise

    def _start(self, context: BaseContext, worker: int) -> None:
        ours, theirs = context.Pipe(duplex=False)
        self._connections.append(ours)
        process = context.Process(  # type: ignore[attr-defined]
            target=work, args=(self._job, worker, theirs), name=f"dinov3-loader-{worker}", daemon=True
        )
        process.start()
        theirs.close()
        self._processes.append(process)

    @property
    def slots(self) -> int:
        """Slots of the ring."""
        return self._job.ring.slots

    @property
    def memory(self) -> Tensor:
        """The whole ring ``[bytes]`` uint8."""
        return self._job.ring.memory.tensor

    def slot(self, batch: int) -> Tensor:
        """The slot of this batch ``[bytes]`` uint8."""
        return self._job.ring.slot(batch)

    def ready(self, batch: int) -> bool:
        """Whether ``wait`` would return at once."""
        while self._finished[batch] < self._chunks and self._listen(0):
            pass
        return self._finished[batch] == self._chunks

    def wait(self, batch: int) -> list[BadSample]:
        """Return when the slot of ``batch`` is full: its unreadable images.

        Raises DataError, TooManyBadSamples, LoaderError when a worker died or failed, LoaderHang when none answers.
        """
        patience = Patience(self._timeout)
        while self._finished[batch] < self._chunks:
            if self._listen(patience.tick):
                patience = Patience(self._timeout)
            elif patience.over():
                raise LoaderHang(self._hanging())
        del self._finished[batch]
        return [sample for _, bad in sorted(self._bad.pop(batch, []), key=lambda item: item[0]) for sample in bad]

    def release(self) -> None:
        """The slot of the oldest batch not yet released may be overwritten."""
        for _ in range(self._chunks):
            self._job.credits.release()

    def _listen(self, timeout: float) -> bool:
        """Take in what workers say; False when nobody said anything for ``timeout`` seconds."""
        talking = wait([*self._connections, *(p.sentinel for p in self._processes)], timeout)
        for connection in self._connections:
            if connection in talking:
                self._take_in(connection)
        for process, connection in zip(self._processes, self._connections, strict=True):
            if process.sentinel in talking:
                self._hear_out(connection)
                raise LoaderError(self._death_of(process))
        return bool(talking)

    def _hear_out(self, connection: Connection) -> None:
        """Take in what a worker that has ended still said: its end may be seen before its last words, a traceback."""
        while connection.poll():  # True at the end of the pipe too, where _take_in raises
            self._take_in(connection)

    def _take_in(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            raise LoaderError(self._death_of(self._processes[self._connections.index(connection)])) from None
        if isinstance(message, Failed):
            known = {"DataError": DataError, "TooManyBadSamples": TooManyBadSamples}
            raise known.get(message.kind, LoaderError)(message.text)
        batch = message.chunk // self._chunks
        self._finished[batch] += 1
        if message.bad:
            self._bad[batch].append((message.chunk, message.bad))

    def _death_of(self, process: BaseProcess) -> str:
        process.join(5)  # its pipes close a little before it can be asked how it ended
        code = process.exitcode
        how = f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        hint = "; SIGKILL mostly means the machine ran out of memory" if code == -signal.SIGKILL else ""
        return f"loader worker {process.name} ended {how}, {self._occupation(self._processes.index(process))}{hint}"

    def _hanging(self) -> str:
        stuck = [worker for worker, position in enumerate(self._at_work_on.tolist()) if position != IDLE][:4]
        for worker in stuck:
            pid = self._processes[worker].pid
            if pid is not None:
                os.kill(pid, signal.SIGQUIT)
                time.sleep(1.0)  # let it print where it is before the next one does, and before it is killed
        where = "; ".join(f"worker {worker} {self._occupation(worker)}" for worker in stuck) or "all workers are idle"
        return f"no image for {self._timeout:g} s (stacks of the stuck workers are on stderr): {where}"

    def _occupation(self, worker: int) -> str:
        position = int(self._at_work_on[worker])
        if position == IDLE:
            return "between two images"
        _, indices = order_of(self._writer.source).samples_at(np.array([position]), self._writer.seed)
        return f"at sample {position}, {self._writer.source.name(int(indices[0]))}"

    def close(self) -> None:
        """Kill the workers and wait until they are gone. So does the end of this process, or of the last reference."""
        self._end()


def end(processes: list[BaseProcess], connections: list[Connection]) -> None:
    """Kill ``processes``, wait until they are gone, close ``connections``."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for connection in connections:
        connection.close()
