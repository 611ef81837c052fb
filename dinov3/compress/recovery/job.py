"""A recovery: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinov3.compress.labelled import Pictures, pictures
from dinov3.compress.recovery.config import RecoverConfig
from dinov3.compress.recovery.pair import MEASURES, compared, load_pair
from dinov3.compress.recovery.task import RecoveryTask
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.decode import Reading
from dinov3.data.sources import parse_dataset
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look, Row
from dinov3.engine.precision import resolve
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.finetune.classifier_file import place_folder
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.results import RESULTS
from dinov3.finetune.selection import PREFIX
from dinov3.finetune.stream import ImageStream, LabelledBatch, Places
from dinov3.finetune.views import Views
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.files import write_json
from dinov3.system.rows import read_rows

FOLDER = "recovered"  # in a run, of its last weights
FORMAT = "dinov3-recovery-results"


@dataclass
class Scene:
    """A student after ``step`` steps; ``found``: as ``compared`` says, {} where it was measured before."""

    step: int
    task: RecoveryTask
    found: dict[str, float]


class Comparison(Look[Scene]):
    """How close the tokens are; at the end the product and ``results.json``."""

    name = "comparison"

    def __init__(self, run: RunFolder, period: int, facts: Mapping[str, Any]) -> None:
        self.run, self.period, self.facts = run, period, facts

    def measure(self, scene: Scene) -> dict[str, Any]:
        return {PREFIX + name: value for name, value in scene.found.items()}

    def finish(self, scene: Scene) -> None:
        rows = compared_rows(read_rows(self.run.evaluation))
        before, after = ({name: row[PREFIX + name] for name in MEASURES} for row in (rows[0], rows[-1]))
        place_folder(self.run.path / FOLDER, scene.task.products(copy=False))
        results = {"format": FORMAT, **self.facts, "step": scene.step, "before": before, "after": after}
        write_json(self.run.path / RESULTS, results)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        path: Path = run.path / RESULTS
        return [] if path.is_file() and path.stat().st_mtime_ns >= saved_ns else [RESULTS]

    def sentence(self, rows: Sequence[Row]) -> str | None:
        found = compared_rows(rows)
        if not found:
            return None
        told = (
            f"{name.replace('_', ' ')} {found[0][PREFIX + name]:.4f} -> {found[-1][PREFIX + name]:.4f}"
            for name in MEASURES
        )
        return f"tokens against the teacher's: {', '.join(told)}"


def compared_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of ``rows`` that have the figures."""
    return [row for row in rows if PREFIX + MEASURES[0] in row]


class RecoveryJob(Job[LabelledBatch]):
    """What ``dinov3 finetune`` trains with ``task: recover``."""

    cfg: RecoverConfig
    product = "model"

    def __init__(self, cfg: RecoverConfig, run: RunFolder, peers: Peers = ALONE) -> None:
        super().__init__(cfg, run, peers)
        self._opened: LabelledSet | None = None
        self._fed: dict[str, Any] = {}  # what the model's file says of its images, once it is built
        self._shown = Pictures(torch.empty(0), None, [])

    @property
    def data(self) -> LabelledSet:
        """The training images, all of one class: labels are not looked at. Opened at the first call."""
        if self._opened is None:
            source = parse_dataset(self.cfg.train.dataset_path)
            labels = np.zeros(len(source), dtype=np.int64)
            self._opened = LabelledSet(self.cfg.train.dataset_path, source, labels, None)
        return self._opened

    def open_data(self) -> str:
        return self.data.source.identity().content

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, self._epoch())

    def _epoch(self) -> int:
        return max(1, -(-len(self.data) // images_a_step(self.cfg)))

    def build(self, start: Start, device: torch.device) -> tuple[RecoveryTask, list[str]]:
        precision = resolve(self.cfg.compute_precision.param_dtype, device)
        pair = load_pair(self.cfg, start)
        judged = self.cfg.evaluation
        source = self.data.source if judged.images is None else parse_dataset(judged.images)
        option = "train.dataset_path" if judged.images is None else "evaluation.images"
        self._shown = pictures(source, pair.preprocess, judged.max_images, option, labelled=False)
        self._fed = pair.facts.preprocess
        return RecoveryTask(pair, self.cfg.loss, precision, self.cfg.train.seed), pair.lines

    def stream(self, task: RecoveryTask, counters: Counters) -> ImageStream:
        cfg, fed = self.cfg, self._fed
        views = Views(
            fed["size"],
            tuple(fed["mean"]),
            tuple(fed["std"]),
            Reading.from_config(cfg),
            cfg.augment.preset,
            (cfg.augment.scale[0], cfg.augment.scale[1]),
        )
        return ImageStream(
            self.data,
            views,
            Places(len(self.data), cfg.train.seed, counters.samples, cfg.train.batch_size_per_gpu),
            task.device,
            threads=usable_workers(cfg.train.num_workers),
            max_bad_frac=cfg.data.max_bad_frac,
            on_bad=BadSampleLog(self.run.bad_samples),
        )

    def looks(self) -> Sequence[Look[Any]]:
        model = self.cfg.model
        facts = {"weights": model.weights, "teacher": model.teacher, "data": self.cfg.train.dataset_path}
        return [Comparison(self.run, self.cfg.evaluation.period or self._epoch(), facts)]

    def scene(self, task: RecoveryTask, step: int, records: Records | None) -> Scene:
        known = main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation)))
        batches = self._shown.batches(self.cfg.train.batch_size_per_gpu)
        found = {} if known else compared(task.tuned.backbone, task.teacher, batches, task.precision)
        return Scene(step, task, found)

    def closing(self) -> list[str]:
        summary = BadSampleLog(self.run.bad_samples).summary()
        return [summary] if summary else []

    def banner(self, trainer: Trainer[LabelledBatch]) -> list[str]:
        task = trainer.task
        assert isinstance(task, RecoveryTask)
        small, whole = (sum(p.numel() for p in model.parameters()) for model in (task.tuned, task.teacher))
        return [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {self.data.text}: {len(self.data):,} images, labels are not looked at",
            f"model      {small:,} parameters drawn to the tokens of {whole:,}, {self._fed['size']} px",
        ]

    def files(self) -> Mapping[str, str | None]:
        return {"start.run": self.cfg.start.run, "model.teacher": self.cfg.model.teacher}
