"""One run of a kind of training: how its parts are made from its config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import torch

from dinov3.config.run_config import RunConfig
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.look import Look
from dinov3.engine.task import B, Counters, Plan, Stream, Task
from dinov3.runs.alarms import Rule
from dinov3.runs.folder import RunFolder
from dinov3.runs.progress import ProgressLine
from dinov3.runs.records import Records
from dinov3.runs.start import Start

if TYPE_CHECKING:
    from dinov3.engine.trainer import Trainer


class DataMatch(NamedTuple):
    """Whether the data are those a run was started with."""

    same: bool
    proven: bool = True  # False: older programs recorded names only, and those are equal


class Job(ABC, Generic[B]):
    """What a kind of training (pretraining, fine-tuning, …) says about one run.

    ``life.run`` calls ``open_data`` first, then ``build``, ``begin`` and ``stream``, each once. Nothing is written into the
    run folder before ``build`` has succeeded. What cannot be used is raised as a Foreseeable error or an OSError.
    A job keeps no model: it outlives the run it describes.
    """

    product = "checkpoint"  # what a finished run is good for, for messages
    product_folder = ""  # in the run folder; empty: it is in the last checkpoint

    def __init__(self, cfg: RunConfig, run: RunFolder, peers: Peers = ALONE) -> None:
        self.cfg, self.run, self.peers = cfg, run, peers
        self.progress = ProgressLine(0, 0, shown=False)  # the trainer's, once there is one

    def product_in(self, checkpoint: Path) -> Path:
        """Where the product of a finished run is, whose last checkpoint is given: in the run folder, where one is chosen."""
        place = self.run.path / self.product_folder
        return place if self.product_folder and place.is_dir() else checkpoint

    @abstractmethod
    def open_data(self) -> str:
        """Open and check the data; what identifies them, to be compared when the run is continued.

        Called on every process, and must not talk to other processes.
        """

    def compare_data(self, recorded: str) -> DataMatch:
        """How the data compare with those whose identifier a checkpoint has."""
        return DataMatch(same=recorded == self.open_data())

    @abstractmethod
    def plan(self) -> Plan:
        """The schedules; called after ``open_data``."""

    @abstractmethod
    def build(self, start: Start, device: torch.device) -> tuple[Task[B], list[str]]:
        """The model where training begins, and lines for the start-up block. Every process calls it.

        With ``start.found`` the weights come from that checkpoint afterwards; with ``start.beginning`` from another run.
        """

    def begin(self, task: Any, start: Start, optimizer: torch.optim.Optimizer) -> Counters:
        """At the first step of a run: what is taken over from ``start.beginning`` beside weights, and where in the data."""
        return Counters()

    @abstractmethod
    def stream(self, task: Any, counters: Counters) -> Stream[B]:
        """The batches of this process from ``counters.samples`` on."""

    def looks(self) -> Sequence[Look[Any]]:
        """What is measured and drawn on the way. Asked for before the model is there."""
        return ()

    def scene(self, task: Any, step: int, records: Records | None) -> Any:
        """What the looks look at after ``step`` steps. Every process calls it; ``records`` is the main process's."""
        return None

    def alarm_rules(self) -> Sequence[Rule]:
        """What is wrong with logged figures, and what to do."""
        return ()

    def flops_of_a_sample(self) -> float | None:
        """Operations a sample costs, for the share of a card's peak; None: nobody counts them. Takes a second."""
        return None

    def closing(self) -> list[str]:
        """What else to say when the run has ended, on the main process."""
        return []

    def banner(self, trainer: Trainer[B]) -> list[str]:
        """Lines of the start-up block about machine, data and model, ``name       text``."""
        return [device_line(trainer.task.device, "fp32"), processes_line(trainer)]

    # ------------------------------------------------------------------ for runs of several stages

    def files(self) -> Mapping[str, str | None]:
        """Files and folders that ``build`` reads, by key: a later stage checks that they are there."""
        return {}

    def check_beginning(self, before: Job[B]) -> None:
        """ConfigError when this run cannot begin where the run ``before`` ends."""
