from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data import workers as workers_module
from dinov3.data.errors import LoaderError, LoaderHang
from dinov3.data.loader import CropLoader
from dinov3.data.workers import CHUNK, IDLE, WorkerPool
from dinov3.system import patience
from tests.data.fakes import Exiting, Failing, Hanging, Killed, Pictures

ROOT = Path(__file__).resolve().parents[2]


def loader(
    cfg: Config, source: Pictures, workers: int = 2, timeout: float = 60, start_method: str = "fork"
) -> CropLoader:
    cfg.train.num_workers = workers
    return CropLoader(
        cfg,
        source,
        position=0,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        dtype=torch.float32,
        timeout=timeout,
        start_method=start_method,
    )


def pids(stream: CropLoader) -> list[int]:
    pool = stream._filler
    assert isinstance(pool, WorkerPool)
    return [process.pid for process in pool._processes if process.pid is not None]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def exhaust(stream: CropLoader) -> None:
    """Read until an error ends it."""
    for _ in range(50):
        next(stream)


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_a_killed_worker_is_an_error_that_says_how_it_ended(cfg: Config, start_method: str) -> None:
    with (
        loader(cfg, Killed(7), start_method=start_method) as stream,
        pytest.raises(
            LoaderError, match=r"ended by signal 9 \(SIGKILL\), at sample \d+, picture-7; SIGKILL mostly means"
        ),
    ):
        exhaust(stream)


def test_a_worker_that_exits_is_an_error(cfg: Config) -> None:
    with loader(cfg, Exiting(7)) as stream, pytest.raises(LoaderError, match=r"ended with exit code 3, .*picture-7"):
        exhaust(stream)


def test_an_exception_in_a_worker_comes_with_its_traceback(cfg: Config) -> None:
    with loader(cfg, Failing(7)) as stream, pytest.raises(LoaderError, match=r"(?s)Traceback.*a bug in the source"):
        exhaust(stream)


def test_the_traceback_of_a_worker_is_heard_though_its_end_was_seen_first(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_only(objects: list[Any], timeout: float | None) -> list[Any]:
        """As ``wait`` answers when a worker ends between its look at the pipes and its look at the processes."""
        return wait([each for each in objects if isinstance(each, int)], timeout)

    monkeypatch.setattr(workers_module, "wait", ends_only)
    with loader(cfg, Failing(7)) as stream, pytest.raises(LoaderError, match=r"(?s)Traceback.*a bug in the source"):
        exhaust(stream)
    with loader(cfg, Killed(7)) as stream, pytest.raises(LoaderError, match=r"ended by signal 9 \(SIGKILL\)"):
        exhaust(stream)


def test_a_hanging_worker_is_an_error_that_names_the_sample(cfg: Config, capfd: pytest.CaptureFixture[str]) -> None:
    with loader(cfg, Hanging(7)) as stream:
        pool = stream._filler
        assert isinstance(pool, WorkerPool)

        def only_one_is_at_work() -> bool:
            """The others wait for a free slot: the ring is full but for what the hanging one was to write."""
            full = int(pool._job.next_chunk.tensor.view(torch.int64)) == pool.slots * pool._chunks
            return full and pool._at_work_on.ne(IDLE).sum() == 1

        assert eventually(only_one_is_at_work, 300)
        pool._timeout = 0.5
        with pytest.raises(LoaderHang, match=r"no image for 0\.5 s .*: worker \d at sample \d+, picture-7"):
            exhaust(stream)
    assert "in happen" in capfd.readouterr().err  # the stack of the worker


def test_a_night_in_which_the_job_was_suspended_is_no_hang(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = 0
    asked = patience.Patience.over

    class Clock:
        def monotonic(self) -> float:
            return time.monotonic() + 8 * 3600 * nights

    def over(waiting: patience.Patience) -> bool:
        """It is asked when nothing came: after a night, and the workers go on then."""
        nonlocal nights
        if not nights:
            nights = 1
            for pid in asleep:
                os.kill(pid, signal.SIGCONT)
        return asked(waiting)

    monkeypatch.setattr(patience, "time", Clock())
    monkeypatch.setattr(patience.Patience, "over", over)
    with loader(cfg, Pictures(), timeout=60) as stream:
        next(stream)
        asleep = pids(stream)
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        exhaust(stream)
    assert nights == 1


@pytest.mark.parametrize("source", [Killed(7), Failing(7), Hanging(7)], ids=lambda source: type(source).__name__)
def test_no_worker_outlives_an_error(cfg: Config, source: Pictures) -> None:
    stream = loader(cfg, source, workers=3, timeout=1.5)
    workers = pids(stream)
    assert len(workers) == 3
    with pytest.raises(LoaderError):
        exhaust(stream)
    assert not any(map(alive, workers))


def test_no_worker_outlives_a_close(cfg: Config) -> None:
    with loader(cfg, Pictures()) as stream:
        next(stream)
        workers = pids(stream)
    assert not any(map(alive, workers))
    stream.close()  # twice does no harm
    with pytest.raises(LoaderError, match="closed"):
        next(stream)


def test_no_worker_outlives_a_forgotten_loader(cfg: Config) -> None:
    stream = loader(cfg, Pictures())
    next(stream)
    workers = pids(stream)
    del stream
    gc.collect()
    assert not any(map(alive, workers))


def test_signals_that_ask_a_job_to_stop_leave_the_workers_at_work(cfg: Config) -> None:
    with loader(cfg, Pictures()) as stream:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            for pid in pids(stream):
                os.kill(pid, number)
        for _ in range(20):
            next(stream)
    pending = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert signal.SIGTERM not in pending  # this process hears them again


def test_a_worker_is_one_thread(cfg: Config) -> None:
    with loader(cfg, Pictures()) as stream:
        for _ in range(3):
            next(stream)
        for pid in pids(stream):
            assert len(os.listdir(f"/proc/{pid}/task")) == 1


ENDS = [(how, start_method) for how in ("returns", "raises", "is killed") for start_method in ("fork", "forkserver")]
DAILY = ("is killed", "forkserver")  # each costs the start of two processes that import torch


@pytest.mark.parametrize(
    ("how", "start_method"), [pytest.param(*end, marks=() if end == DAILY else pytest.mark.nightly) for end in ENDS]
)
def test_workers_end_with_the_process_that_started_them(how: str, start_method: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            import torch
            from dinov3.config.schema import Config
            from tests.data.fakes import Pictures
            from tests.data.test_workers import loader, pids

            if __name__ == "__main__":
                cfg = Config()
                cfg.train.batch_size_per_gpu = 8
                cfg.crops.global_crops_size, cfg.crops.local_crops_size, cfg.student.patch_size = 32, 16, 8
                stream = loader(cfg, Pictures(), start_method=sys.argv[2])
                next(stream)
                print(*pids(stream), flush=True)
                if sys.argv[1] == "raises":
                    raise ValueError("on purpose")
                if sys.argv[1] == "is killed":
                    os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), how, start_method]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    assert eventually(lambda workers=workers: not any(map(alive, workers)), 300)  # type: ignore[misc]


def test_a_hundred_batches_and_four_loaders_leave_nothing_behind(cfg: Config) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with loader(cfg, Pictures()) as stream:
        next(stream)
    gc.collect()
    files, threads = descriptors(), threading.active_count()
    for _ in range(4):
        with loader(cfg, Pictures()) as stream:
            for _ in range(25):
                next(stream)
    del stream
    gc.collect()
    assert descriptors() <= files
    assert threading.active_count() <= threads


def test_the_consumer_may_be_slow(cfg: Config) -> None:
    """The workers fill the ring, wait, and overwrite nothing that was not consumed."""
    with loader(cfg, Pictures(), workers=3) as stream:
        time.sleep(1.0)
        ids = [next(stream).sample_ids for _ in range(12)]
    assert torch.cat([i for i in ids if i is not None]).tolist() == list(range(12 * 8))


def test_a_ring_holds_enough_chunks_for_all_workers(cfg: Config) -> None:
    for batch, workers in ((1, 4), (8, 5), (64, 3), (200, 2)):
        cfg.train.batch_size_per_gpu = batch
        with loader(cfg, Pictures(), workers=workers) as stream:
            pool = stream._filler
            assert isinstance(pool, WorkerPool)
            chunks = -(-batch // CHUNK)
            assert (pool.slots - 2) * chunks >= 2 * workers
            assert pool.slots >= 3
