"""The parts of a run that are the same for every task with a head on a backbone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, cast

import torch
from torch import nn

from dinov3.config.errors import ConfigError
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.sources.imagefolder import refuse_inside
from dinov3.distributed import context
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look
from dinov3.engine.precision import resolve_block
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.finetune.headed.building import Built
from dinov3.finetune.headed.config import Headed
from dinov3.finetune.headed.evaluation import Judge
from dinov3.finetune.headed.over import spread
from dinov3.finetune.headed.product import A, M
from dinov3.finetune.headed.scoring import Scorer, T
from dinov3.finetune.headed.selected import Scene, Validation, place_selected
from dinov3.finetune.headed.stream import ViewBatch, Views, ViewStream
from dinov3.finetune.headed.task import HeadedTask, Terms
from dinov3.finetune.results import RESULTS
from dinov3.finetune.stream import Places
from dinov3.finetune.tuned_task import TunedTask
from dinov3.finetune.validation import Conclusion
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.rows import read_rows


class HeadedJob(Job[ViewBatch], Generic[M, A, T]):
    """What ``dinov3 finetune`` trains. A task adds its sets, its model and the loss of it, its views and its judge."""

    cfg: Headed
    judge: Judge[M, A, T]

    def __init__(self, cfg: Headed, run: RunFolder, peers: Peers = ALONE) -> None:
        super().__init__(cfg, run, peers)
        self._opened: tuple[T, T] | None = None
        self._told: tuple[Any, dict[str, Any]] | None = None

    # ------------------------------------------------------------------ what a task adds

    @property
    @abstractmethod
    def fits(self) -> Sequence[str]:
        """Keys that must be those of the stage before, or its head would not fit."""

    @abstractmethod
    def open_sets(self) -> tuple[T, T]:
        """(training, validation), checked. Raises DataError."""

    @abstractmethod
    def built(self, start: Start) -> Built[M, A]:
        """On the CPU. Raises ConfigError, FinetuneError, WeightsError or CheckpointError."""

    @abstractmethod
    def terms(self) -> Terms[M]:
        """The loss, in parts."""

    @abstractmethod
    def views(self, preprocess: Mapping[str, Any]) -> Views:
        """Of training, for the backbone whose file says ``preprocess``."""

    @abstractmethod
    def about_lines(self) -> tuple[str, str]:
        """What the start-up block says of the data, and of the model before the numbers of parameters."""

    # ------------------------------------------------------------------ data

    @property
    def data(self) -> tuple[T, T]:
        """(training, validation); opened and checked at the first call."""
        if self._opened is None:
            refuse_inside(self.run.path, cast(Any, self.cfg).train.dataset_path)
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

    def stream(self, task: HeadedTask[M], counters: Counters) -> ViewStream:
        return ViewStream(
            self.data[0],
            self.views(self.told[1]),
            f"{self.cfg.task} view",
            self.places(counters.samples),
            task.device,
            threads=self.threads,
            max_bad_frac=self.cfg.data.max_bad_frac,
            on_bad=BadSampleLog(self.run.bad_samples),
        )

    # ------------------------------------------------------------------ the model

    def build(self, start: Start, device: torch.device) -> tuple[HeadedTask[M], list[str]]:
        precision = resolve_block(self.cfg.compute_precision, device)
        built = self.built(start)
        self._told = built.about, built.facts.preprocess
        return HeadedTask(built, self.cfg, precision, self.terms()), built.lines

    @property
    def told(self) -> tuple[A, dict[str, Any]]:
        """(what the head's file says, what the backbone's says of how it is fed) of the model that was built."""
        assert self._told is not None, "build is called first"
        return self._told

    def scorer(self, task: HeadedTask[M]) -> Scorer[M, T]:
        bad = self.cfg.data.max_bad_frac
        return self.judge.scorer(*self.told, task.precision, threads=max(1, self.threads), max_bad_frac=bad)

    def conclude(self, task: HeadedTask[M], step: int) -> None:
        """Write what a finished run leaves: the product, a picture, ``results.json``. On the main process alone."""
        run, judge, (_, images) = self.run, self.judge, self.data
        model, about = judge.product.load(place_selected(run, task, step, judge.select, judge.product.folder))
        model.to(task.device)
        scorer = self.scorer(task)
        with self.progress.counting("scores on validation:", len(images)) as count:
            scored = scorer.score(model, images, range(len(images)), shared=False, count=count)
        data, weights = f"{cast(Any, self.cfg.train).dataset_path}, validation", parameters(task.tuned)
        judge.write(run.path, run.path.resolve().name, data, scorer, model, about, images, scored, weights)

    # ------------------------------------------------------------------ looking

    def looks(self) -> Sequence[Look[Any]]:
        return [Validation(self.run, self.cfg.evaluation.period or self._epoch(), self.judge.select), Conclusion()]

    def scene(self, task: HeadedTask[M], step: int, records: Records | None) -> Scene:
        """Validation is scored by all processes together, unless this step has its row."""
        known = main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation)))
        scored = None
        if not known:
            n = len(self.data[1])
            indices = spread(n, self.cfg.evaluation.max_images or n)
            with self.progress.counting(f"validation of step {step}:", len(indices) // context.world_size()) as count:
                found = self.scorer(task).score(task.tuned, self.data[1], indices, count=count)
            scored = found.scores, found.images
        return Scene(step, task, scored, lambda _: self.conclude(task, step))

    # ------------------------------------------------------------------ saying

    def closing(self) -> list[str]:
        summary = BadSampleLog(self.run.bad_samples).summary()
        results, judge = self.run.path / RESULTS, self.judge
        found = [judge.sentence(judge.read_results(results))] if results.is_file() else []
        return [*found, *([summary] if summary else [])]

    def banner(self, trainer: Trainer[ViewBatch]) -> list[str]:
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

    def check_beginning(self, before: Job[ViewBatch]) -> None:
        """ConfigError when the head would not fit."""
        for key in self.fits:
            block, name = key.split(".")
            old, new = (getattr(getattr(cfg, block), name) for cfg in (before.cfg, self.cfg))
            if old != new:
                raise ConfigError("", key, f"{old!r} in the stage before, {new!r} here: the head would not fit")


def parameters(model: nn.Module) -> int:
    """Numbers in it."""
    return sum(p.numel() for p in model.parameters())
