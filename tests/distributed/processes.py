"""Several training runs in one set of gloo processes: importing torch costs more than the runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dinov3.runs.folder import RunFolder
from tests.train.tiny import tiny_config

PRELOADED = ("torch._dynamo", "torch.nn.attention.flex_attention")  # half of what a run imports by and by


@dataclass(frozen=True)
class Phase:
    """``work(folder)`` on the first ``n`` processes, ``per_machine`` of which count as one machine."""

    work: Callable[[Path], None]
    n: int
    per_machine: int | None = None


@dataclass(frozen=True)
class Run:
    """Train the tiny model in the folder ``name`` up to step ``until``; picklable."""

    name: str
    until: int
    changes: dict[str, object] = field(default_factory=dict)

    def __call__(self, folder: Path) -> None:
        from dinov3.engine.life import run
        from dinov3.train.job import PretrainingJob

        cfg = tiny_config(train__max_steps=self.until, **self.changes)
        assert run(PretrainingJob(cfg, RunFolder(folder / self.name)), resume=True) == 0


def _worker(rank: int, phases: Sequence[Phase], folder: Path) -> None:
    torch.set_num_threads(1)
    for number, phase in enumerate(phases):
        if rank >= phase.n:
            continue
        machine = phase.per_machine or phase.n
        values = {"RANK": rank, "WORLD_SIZE": phase.n, "LOCAL_RANK": rank % machine, "LOCAL_WORLD_SIZE": machine}
        os.environ.update({k: str(v) for k, v in values.items()})
        if phase.n > 1:  # a file to meet at: a port that is free now may be taken when its turn comes
            dist.init_process_group("gloo", init_method=f"file://{folder}/{number}", rank=rank, world_size=phase.n)
        phase.work(folder)
        if dist.is_initialized():
            dist.destroy_process_group()


def run_phases(phases: Sequence[Phase], folder: Path) -> None:
    """One after the other, on as many processes as the largest needs; an error in any process is raised here."""
    run_processes(_worker, (phases, folder), max(phase.n for phase in phases))


def run_processes(work: Callable[..., None], arguments: tuple[Any, ...], n: int) -> None:
    """``work(rank, *arguments)`` in ``n`` processes at once; an error in any of them is raised here.

    They are forked from a server that has imported torch and the trainer once, where spawned ones would import them each.
    """
    mp.get_context("forkserver").set_forkserver_preload(["dinov3.train.job", "dinov3.engine.life", *PRELOADED])
    started = mp.start_processes(work, args=arguments, nprocs=n, join=False, start_method="forkserver")
    assert started is not None  # because nothing was waited for
    try:
        while not started.join():
            pass
    finally:
        for process in started.processes:
            process.kill()  # after a time limit: it would wait for the others for ever
