"""A recovery: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinov3.compress.labelled import Pictures, pictures
from dinov3.compress.recovery.config import RecoverConfig
from dinov3.compress.recovery.pair import MEASURES, compared, load_pair
from dinov3.compress.recovery.task import RecoveryTask
from dinov3.data.bad_samples import BadSampleLog, raise_limit
from dinov3.data.decode import Reading
from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look, Row
from dinov3.engine.precision import resolve_block
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.finetune.headed.selected import place_selected
from dinov3.finetune.labelled import LabelledSet
from dinov3.finetune.results import RESULTS
from dinov3.finetune.selection import PREFIX, best, keep_if_best, kept
from dinov3.finetune.stream import ImageStream, LabelledBatch, Places
from dinov3.finetune.views import Views
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.files import write_json
from dinov3.system.rows import read_rows

FOLDER = "recovered"  # in a run, of the closest weights
FORMAT = "dinov3-recovery-results"
CLOSEST = "distance"  # of MEASURES, by which weights are kept


@dataclass
class Scene:
    """A student after ``step`` steps; ``found``: as ``compared`` says, {} where it was measured before."""

    step: int
    task: RecoveryTask
    found: dict[str, float]
    compared: dict[str, Any]  # which images


class Comparison(Look[Scene]):
    """How close the tokens are, and the weights kept when they are the closest so far: the start is one of them."""

    name = "comparison"

    def __init__(self, run: RunFolder, period: int, facts: Mapping[str, Any]) -> None:
        self.run, self.period, self.facts = run, period, facts

    def measure(self, scene: Scene) -> dict[str, Any]:
        if not scene.found:
            return {}
        row = {PREFIX + name: value for name, value in scene.found.items()}
        keep_if_best(self.run, {"step": scene.step, **row}, CLOSEST, scene.task.products(copy=False))
        return row

    def finish(self, scene: Scene) -> None:
        rows = [row for row in read_rows(self.run.evaluation) if PREFIX + CLOSEST in row]
        chosen = kept(self.run, rows, CLOSEST) or rows[-1]  # rolled back beyond its best: the last weights are kept
        place_selected(self.run, scene.task, scene.step, CLOSEST, FOLDER)
        before, after = ({name: row[PREFIX + name] for name in MEASURES} for row in (rows[0], chosen))
        step = int(chosen["step"])
        results = {"format": FORMAT, **self.facts, **scene.compared, "step": step, "before": before, "after": after}
        write_json(self.run.path / RESULTS, results)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        path: Path = run.path / RESULTS
        return [] if path.is_file() and path.stat().st_mtime_ns >= saved_ns else [RESULTS]

    def sentence(self, rows: Sequence[Row]) -> str | None:
        chosen = best(rows, CLOSEST)
        if chosen is None:
            return None
        first = next(row for row in rows if PREFIX + CLOSEST in row)
        told = (
            f"{name.replace('_', ' ')} {first[PREFIX + name]:.4f} -> {chosen[PREFIX + name]:.4f}" for name in MEASURES
        )
        found = f"step {chosen['step']} is the closest; tokens against the teacher's: {', '.join(told)}"
        return found if chosen is not first else f"{found}: training brought it no closer, try a lower optim.lr"


class RecoveryJob(Job[LabelledBatch]):
    """What ``dinov3 finetune`` trains with ``task: recover``."""

    cfg: RecoverConfig
    product, product_folder = "model", FOLDER

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
        precision = resolve_block(self.cfg.compute_precision, device)
        pair = load_pair(self.cfg, start)
        judged = self.cfg.evaluation
        option = "train.dataset_path" if judged.images is None else "evaluation.images"
        source = self.data.source if judged.images is None else parse_dataset(judged.images)
        self._shown = pictures(source, pair.preprocess, judged.max_images, option, labelled=False)
        most = self.cfg.data.max_bad_frac
        if len(bad := self._shown.left_out) > most * (len(bad) + len(self._shown.images)):
            raise DataError(
                f"{option}: {len(bad)} images are unreadable, the first {bad[0].name}: {bad[0].reason}; {raise_limit(most)}"
            )
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
        return Scene(step, task, found, self._compared())

    def _compared(self) -> dict[str, Any]:
        left_out = [asdict(one) for one in self._shown.left_out]
        return {"compared": {"data": self._compared_text, "images": len(self._shown.images), "left_out": left_out}}

    @property
    def _compared_text(self) -> str:
        return self.cfg.evaluation.images or self.cfg.train.dataset_path

    def closing(self) -> list[str]:
        summary = BadSampleLog(self.run.bad_samples).summary()
        return [summary] if summary else []

    def banner(self, trainer: Trainer[LabelledBatch]) -> list[str]:
        task = trainer.task
        assert isinstance(task, RecoveryTask)
        left_out = f", {len(bad)} unreadable ones left out" if (bad := self._shown.left_out) else ""
        small, whole = (sum(p.numel() for p in model.parameters()) for model in (task.tuned, task.teacher))
        return [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {self.data.text}: {len(self.data):,} images, labels are not looked at",
            f"compared   {len(self._shown.images):,} images of {self._compared_text}{left_out}",
            f"model      {small:,} parameters drawn to the tokens of {whole:,}, {self._fed['size']} px",
        ]

    def files(self) -> Mapping[str, str | None]:
        return {"start.run": self.cfg.start.run, "model.teacher": self.cfg.model.teacher}
