"""A segmentation run: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dinov3.config.errors import ConfigError
from dinov3.data.bad_samples import BadSampleLog
from dinov3.dense.augment import Augment
from dinov3.distributed import context
from dinov3.distributed.agreement import main_decides
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look
from dinov3.engine.precision import resolve
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.finetune.results import RESULTS
from dinov3.finetune.stream import Places
from dinov3.finetune.validation import Conclusion
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.segment.building import build_segmenter
from dinov3.segment.concluding import conclude, read_results, sentence_of
from dinov3.segment.config import SegmentConfig, stride_of
from dinov3.segment.masked import MaskedSet, open_masked, spread
from dinov3.segment.scoring import Scorer
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.segmenter_file import write_segmenter
from dinov3.segment.stream import CropStream, SegmentBatch
from dinov3.segment.task import SegmentTask
from dinov3.segment.validation import Scene, Validation
from dinov3.system.cores import usable_workers
from dinov3.system.rows import read_rows


class SegmentJob(Job[SegmentBatch]):
    """What ``dinov3 finetune`` trains with ``task: segment``."""

    cfg: SegmentConfig
    product = "segmenter"

    def __init__(self, cfg: SegmentConfig, run: RunFolder, peers: Peers = ALONE) -> None:
        super().__init__(cfg, run, peers)
        self._opened: tuple[MaskedSet, MaskedSet] | None = None

    # ------------------------------------------------------------------ data

    @property
    def data(self) -> tuple[MaskedSet, MaskedSet]:
        """(training, validation); opened and checked at the first call."""
        if self._opened is None:
            self._opened = open_masked(self.cfg)
        return self._opened

    def open_data(self) -> str:
        return self.data[0].content()

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, self._epoch())

    def _epoch(self) -> int:
        """Steps in which every training image is seen once; the last may begin the next."""
        return max(1, -(-len(self.data[0]) // images_a_step(self.cfg)))

    # ------------------------------------------------------------------ the model

    def build(self, start: Start, device: torch.device) -> tuple[SegmentTask, list[str]]:
        precision = resolve(self.cfg.compute_precision.param_dtype, device)
        built = build_segmenter(self.cfg, start, self.data[0].classes)

        def writes(segmenter: Segmenter, step: int) -> Callable[[Path], None]:
            about = built.about(step)
            return lambda folder: write_segmenter(folder, segmenter, about, built.facts)

        self._feeding = built.feeding
        return SegmentTask(built.segmenter, self.cfg, precision, built.pretrained, writes), built.lines

    # ------------------------------------------------------------------ training

    def stream(self, task: SegmentTask, counters: Counters) -> CropStream:
        cfg, train = self.cfg, self.data[0]
        crop, scale = cfg.augment.crop, cfg.augment.scale
        return CropStream(
            train,
            Augment((crop, crop), cfg.train.ignore, cfg.augment.short_side, (scale[0], scale[1])),
            self._feeding,
            Places(len(train), cfg.train.seed, counters.samples, cfg.train.batch_size_per_gpu),
            task.device,
            threads=usable_workers(cfg.train.num_workers),
            max_bad_frac=cfg.data.max_bad_frac,
            on_bad=BadSampleLog(self.run.bad_samples),
        )

    def scorer(self, task: SegmentTask) -> Scorer:
        return Scorer(
            self._feeding,
            task.precision,
            self.cfg.augment.crop,
            stride_of(self.cfg),
            max(1, usable_workers(self.cfg.train.num_workers)),
            self.cfg.data.max_bad_frac,
        )

    # ------------------------------------------------------------------ looking

    def looks(self) -> Sequence[Look[Any]]:
        return [Validation(self.run, self.cfg.evaluation.period or self._epoch()), Conclusion()]

    def scene(self, task: SegmentTask, step: int, records: Records | None) -> Scene:
        """Validation is scored by all processes together, unless this step has its row."""
        known = main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation)))
        scored = None
        if not known:
            validation = self.data[1]
            indices = spread(len(validation), self.cfg.evaluation.max_images or len(validation))
            share = len(indices) // context.world_size()
            with self.progress.counting(f"validation of step {step}:", share) as count:
                scored = self.scorer(task).score(task.segmenter, validation, indices, count=count)
        return Scene(step, task, scored, lambda task: conclude(self, task, step))

    # ------------------------------------------------------------------ saying

    def closing(self) -> list[str]:
        summary, path = BadSampleLog(self.run.bad_samples).summary(), self.run.path / RESULTS
        found = [sentence_of(read_results(path))] if path.is_file() else []
        return [*found, *([summary] if summary else [])]

    def banner(self, trainer: Trainer[SegmentBatch]) -> list[str]:
        task, (train, validation) = trainer.task, self.data
        assert isinstance(task, SegmentTask)
        trained = sum(p.numel() for p in task.trained.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in task.segmenter.parameters())
        cfg = self.cfg
        backbone = "frozen" if cfg.model.frozen else "trained"
        return [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {cfg.train.dataset_path}: {len(train):,} images of {train.classes} classes, "
            f"validation {len(validation):,}",
            f"model      {cfg.model.head}, backbone {backbone}: {trained:,} of {whole:,} parameters train, "
            f"crops of {cfg.augment.crop} px",
        ]

    def files(self) -> Mapping[str, str | None]:
        return {"start.run": self.cfg.start.run}

    def check_beginning(self, before: Job[SegmentBatch]) -> None:
        """ConfigError when the head would not fit."""
        assert isinstance(before, SegmentJob)
        keys = ["model.head", "model.queries", "model.query_blocks", "train.classes"]
        if self.cfg.model.head == "mask_transformer":  # whose blocks are the backbone's or its own
            keys.append("model.frozen")
        for key in keys:
            block, name = key.split(".")
            old, new = (getattr(getattr(cfg, block), name) for cfg in (before.cfg, self.cfg))
            if old != new:
                raise ConfigError("", key, f"{old!r} in the stage before, {new!r} here: the head would not fit")
