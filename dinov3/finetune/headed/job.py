"""The parts of a run that are the same for every task with a head on a backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import nn

from dinov3.config.errors import ConfigError
from dinov3.data.bad_samples import BadSampleLog
from dinov3.distributed import context
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import B
from dinov3.engine.trainer import Trainer
from dinov3.finetune.headed.config import Headed
from dinov3.finetune.headed.over import spread
from dinov3.finetune.headed.selected import Scene, Scores, Validation
from dinov3.finetune.results import RESULTS
from dinov3.finetune.stream import Places
from dinov3.finetune.tuned_task import TunedTask
from dinov3.finetune.validation import Conclusion
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.system.cores import usable_workers
from dinov3.system.rows import read_rows


class TrueSet(Protocol):
    """Images with their truth."""

    def __len__(self) -> int: ...

    def content(self) -> str:
        """What identifies the images and their truth."""


T = TypeVar("T", bound=TrueSet)
Count = Callable[[int], object]


class HeadedJob(Job[B], Generic[B, T]):
    """What ``dinov3 finetune`` trains. A task adds its sets, its model, its stream, its scores and what it leaves."""

    cfg: Headed
    selects: ClassVar[str]  # the score of validation by which weights are kept

    def __init__(self, cfg: Headed, run: RunFolder, peers: Peers = ALONE) -> None:
        super().__init__(cfg, run, peers)
        self._opened: tuple[T, T] | None = None

    # ------------------------------------------------------------------ what a task adds

    @property
    @abstractmethod
    def fits(self) -> Sequence[str]:
        """Keys that must be those of the stage before, or its head would not fit."""

    @abstractmethod
    def open_sets(self) -> tuple[T, T]:
        """(training, validation), checked. Raises DataError."""

    @abstractmethod
    def scores(self, task: Any, indices: Sequence[int], count: Count) -> tuple[Scores, int]:
        """(scores of these images of validation, how many could be used), by all processes together."""

    @abstractmethod
    def conclude(self, task: Any, step: int) -> None:
        """Write what a finished run leaves, ``results.json`` last. On the main process alone."""

    @abstractmethod
    def sentence(self) -> str:
        """One line of a finished run, from its ``results.json``."""

    @abstractmethod
    def about_lines(self) -> tuple[str, str]:
        """What the start-up block says of the data, and of the model before the numbers of parameters."""

    # ------------------------------------------------------------------ data

    @property
    def data(self) -> tuple[T, T]:
        """(training, validation); opened and checked at the first call."""
        if self._opened is None:
            self._opened = self.open_sets()
        return self._opened

    def open_data(self) -> str:
        return self.data[0].content()

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, self._epoch())

    def _epoch(self) -> int:
        """Steps in which every training image is seen once; the last may begin the next."""
        return max(1, -(-len(self.data[0]) // images_a_step(self.cfg)))

    def places(self, samples: int) -> Places:
        """Which samples are this process's, from ``samples`` on."""
        return Places(len(self.data[0]), self.cfg.train.seed, samples, self.cfg.train.batch_size_per_gpu)

    @property
    def threads(self) -> int:
        return usable_workers(self.cfg.train.num_workers)

    def feeding(self) -> dict[str, Any]:
        """The settings of the stream that every task has."""
        bad = BadSampleLog(self.run.bad_samples)
        return {"threads": self.threads, "max_bad_frac": self.cfg.data.max_bad_frac, "on_bad": bad}

    # ------------------------------------------------------------------ looking

    def looks(self) -> Sequence[Look[Any]]:
        return [Validation(self.run, self.cfg.evaluation.period or self._epoch(), self.selects), Conclusion()]

    def scene(self, task: TunedTask[B, Any], step: int, records: Records | None) -> Scene:
        """Validation is scored by all processes together, unless this step has its row."""
        known = main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation)))
        scored = None
        if not known:
            n = len(self.data[1])
            indices = spread(n, self.cfg.evaluation.max_images or n)
            with self.progress.counting(f"validation of step {step}:", len(indices) // context.world_size()) as count:
                scored = self.scores(task, indices, count)
        return Scene(step, task, scored, lambda task: self.conclude(task, step))

    # ------------------------------------------------------------------ saying

    def closing(self) -> list[str]:
        summary = BadSampleLog(self.run.bad_samples).summary()
        found = [self.sentence()] if (self.run.path / RESULTS).is_file() else []
        return [*found, *([summary] if summary else [])]

    def banner(self, trainer: Trainer[B]) -> list[str]:
        task = trainer.task
        assert isinstance(task, TunedTask)
        data, model = self.about_lines()
        trained = sum(p.numel() for p in task.trained.parameters() if p.requires_grad)
        backbone = "frozen" if self.cfg.model.frozen else "trained"
        return [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {data}",
            f"model      {model}, backbone {backbone}: {trained:,} of {parameters(task.tuned):,} parameters train",
        ]

    # ------------------------------------------------------------------ for runs of several stages

    def files(self) -> Mapping[str, str | None]:
        return {"start.run": self.cfg.start.run}

    def check_beginning(self, before: Job[B]) -> None:
        """ConfigError when the head would not fit."""
        for key in self.fits:
            block, name = key.split(".")
            old, new = (getattr(getattr(cfg, block), name) for cfg in (before.cfg, self.cfg))
            if old != new:
                raise ConfigError("", key, f"{old!r} in the stage before, {new!r} here: the head would not fit")


def parameters(model: nn.Module) -> int:
    """Numbers in it."""
    return sum(p.numel() for p in model.parameters())
