"""A fine-tuning run: how its parts are made from its config."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dinov3.config.errors import ConfigError
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.decode import Reading, read_image
from dinov3.data.sources.imagefolder import refuse_output_inside
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
from dinov3.finetune.building import Built, build_classifier
from dinov3.finetune.cached import CachedSet
from dinov3.finetune.classifier import Classifier, label_of
from dinov3.finetune.classifier_file import write_classifier
from dinov3.finetune.concluding import conclude
from dinov3.finetune.config import ClassifyConfig
from dinov3.finetune.headed.over import check_sample
from dinov3.finetune.labelled import LabelledSet, classes_missing, open_beside, open_training, shared_with
from dinov3.finetune.scoring import Scored, Scorer
from dinov3.finetune.stream import FeatureStream, ImageStream, LabelledBatch, Places
from dinov3.finetune.task import FinetuneTask
from dinov3.finetune.validation import Conclusion, Scene, Validation, result_lines
from dinov3.finetune.views import Views
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows


class FinetuneJob(Job[LabelledBatch]):
    """What ``dinov3 finetune`` trains with ``task: classify``."""

    cfg: ClassifyConfig
    product = product_folder = "classifier"

    def __init__(self, cfg: ClassifyConfig, run: RunFolder, peers: Peers = ALONE) -> None:
        super().__init__(cfg, run, peers)
        self._opened: tuple[LabelledSet, int, dict[str, LabelledSet]] | None = None
        self._cached: dict[str, CachedSet] = {}
        self._fed: Views | None = None
        self.notes: list[str] = []  # on the data, for the start-up block and the results

    # ------------------------------------------------------------------ data

    @property
    def data(self) -> tuple[LabelledSet, int, dict[str, LabelledSet]]:
        """(training images, number of classes, the others by name); opened and checked at the first call."""
        if self._opened is None:
            train, classes = open_training(self.cfg.train.dataset_path, self.cfg.train.classes, self.cfg.train.positive)
            others: dict[str, LabelledSet] = {}
            for name, text in (("validation", self.cfg.evaluation.validation), ("test", self.cfg.evaluation.test)):
                if text is None:
                    continue
                other = open_beside(text, f"evaluation.{name}", train, classes)
                for before in (train, *others.values()):
                    self.notes += shared_with(before, other, f"evaluation.{name}")
                self.notes += classes_missing(train, other, f"evaluation.{name}")
                others[name] = other
            for opened in (train, *others.values()):
                refuse_output_inside(opened.source, self.run.path)
            for name, other in others.items():
                self._check_readable(other, f"evaluation.{name}: {other.text}")
            self._opened = train, classes, others
        return self._opened

    def _check_readable(self, other: LabelledSet, where: str) -> None:
        """DataError when more of a sample is unreadable than ``data.max_bad_frac`` allows: its scores come after training."""
        reading = Reading.from_config(self.cfg)
        read = partial(read_image, other.source, reading=reading)
        check_sample(len(other), read, other.source.name, where, self.cfg.data.max_bad_frac)

    def open_data(self) -> str:
        """The images' content and their classes: other labels are other data."""
        train = self.data[0]
        labels = hashlib.blake2b(train.labels.astype("<i8").tobytes(), digest_size=8).hexdigest()
        return f"{train.source.identity().content}/classes-{labels}"

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, self._epoch())

    def _epoch(self) -> int:
        """Steps in which every training image is seen once; the last may begin the next."""
        return max(1, -(-len(self.data[0]) // images_a_step(self.cfg)))

    # ------------------------------------------------------------------ the model

    def build(self, start: Start, device: torch.device) -> tuple[FinetuneTask, list[str]]:
        precision = resolve_block(self.cfg.compute_precision, device)
        train, classes, others = self.data
        trained_on, validation = train.source.identity().content, others.get("validation")
        validated_on = None if validation is None else validation.source.identity().content
        built = build_classifier(
            self.cfg, start, classes, train.names, trained_on=trained_on, validated_on=validated_on
        )

        def writes(classifier: Classifier, step: int) -> Callable[[Path], None]:
            about = built.about(step)
            return lambda folder: write_classifier(folder, classifier, about, built.facts)

        task = FinetuneTask(built.classifier, self.cfg, precision, built.pretrained, writes)
        self._fed = self._views_of(built)
        return task, built.lines

    @property
    def views(self) -> Views:
        """How images are fed to the model that was built."""
        assert self._fed is not None, "build is called first"
        return self._fed

    def _views_of(self, built: Built) -> Views:
        augment = self.cfg.augment
        return Views(
            built.size,
            tuple(built.facts.preprocess["mean"]),
            tuple(built.facts.preprocess["std"]),
            Reading.from_config(self.cfg),
            augment.preset,
            (augment.scale[0], augment.scale[1]),
            augment.stain,
        )

    # ------------------------------------------------------------------ training

    def stream(self, task: FinetuneTask, counters: Counters) -> ImageStream | FeatureStream:
        cfg, train = self.cfg, self.data[0]
        bad_samples = BadSampleLog(self.run.bad_samples)
        batch, seed = cfg.train.batch_size_per_gpu, cfg.train.seed
        if task.on_features:
            cached = self._features("train", train, task)
            for bad in cached.skipped if context.is_main() else ():
                bad_samples(bad)
            places = Places(len(cached.labels), seed, counters.samples, batch)
            return FeatureStream(cached.features, cached.labels, cached.name_of, places)
        return ImageStream(
            train,
            self.views,
            Places(len(train), seed, counters.samples, batch),
            task.device,
            threads=usable_workers(cfg.train.num_workers),
            max_bad_frac=cfg.data.max_bad_frac,
            on_bad=bad_samples,
        )

    def _features(self, name: str, labelled: LabelledSet, task: FinetuneTask) -> CachedSet:
        if name not in self._cached:
            folder = expanded(self.cfg.train.cache) if self.cfg.train.cache else self.run.path / "features"
            self._cached[name] = CachedSet.of(labelled, task.classifier, self.views, task.precision, folder, self.cfg)
        return self._cached[name]

    def scorer(self, task: FinetuneTask) -> Scorer:
        return Scorer(
            self.views,
            task.precision,
            batch=self.cfg.evaluation.batch_size,
            threads=max(1, usable_workers(self.cfg.train.num_workers)),
            max_bad_frac=self.cfg.data.max_bad_frac,
        )

    # ------------------------------------------------------------------ looking

    def looks(self) -> Sequence[Look[Any]]:
        period = self.cfg.evaluation.period or self._epoch()
        validation = [Validation(self.cfg, self.run, period)] if "validation" in self.data[2] else []
        return [*validation, Conclusion()]

    def scene(self, task: FinetuneTask, step: int, records: Records | None) -> Scene:
        """Validation is scored by all processes together, unless this step has its row."""
        known = main_decides(lambda: any(row.get("step") == step for row in read_rows(self.run.evaluation)))
        labelled = self.data[2].get("validation")
        scored = None if known or labelled is None else self._validate(task, labelled, step)
        return Scene(step, task, scored, lambda task: conclude(self, task, step))

    def _validate(self, task: FinetuneTask, labelled: LabelledSet, step: int) -> Scored:
        if task.on_features:
            return self._features("validation", labelled, task).scored(task.classifier)
        most = self.cfg.evaluation.max_images
        indices = range(0, len(labelled), 1 if most is None else max(1, -(-len(labelled) // most)))
        with self.progress.counting(f"validation of step {step}:", len(indices) // context.world_size()) as count:
            return self.scorer(task).score(task.classifier, labelled, indices, count=count)

    # ------------------------------------------------------------------ saying

    def closing(self) -> list[str]:
        summary = BadSampleLog(self.run.bad_samples).summary()
        return [*result_lines(self.run), *([summary] if summary else [])]

    def banner(self, trainer: Trainer[LabelledBatch]) -> list[str]:
        task, (train, classes, others) = trainer.task, self.data
        assert isinstance(task, FinetuneTask)
        trained = sum(p.numel() for p in task.trained.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in task.classifier.parameters())
        counts = ", ".join(f"{name} {len(other):,}" for name, other in others.items()) or "no validation, no test"
        lines = [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {train.text}: {len(train):,} images of {classes} classes; {counts}",
            f"model      {label_of(self.cfg.model)}: {trained:,} of {whole:,} parameters train, {self.views.size} px",
        ]
        if classes == 2:
            negative, positive = (train.names or ["0", "1"])[:2]
            lines.append(
                f"positive   {positive!r}, not {negative!r}: AUPRC and Sens95 are of it (train.positive takes the other)"
            )
        if task.on_features:
            lines.append("features   computed once and kept: nothing of the backbone trains and no image is changed")
        if (step := images_a_step(self.cfg)) > len(train):
            lines.append(f"batch      {step} images a step of {len(train)}: some are seen several times a step")
        return [*lines, *self.notes]

    def files(self) -> Mapping[str, str | None]:
        model = self.cfg.model
        return {
            "start.run": self.cfg.start.run,
            "model.head": model.head or None,
            "model.adapters": model.adapters or None,
        }

    def check_beginning(self, before: Job[LabelledBatch]) -> None:
        """ConfigError when the head would not fit."""
        assert isinstance(before, FinetuneJob)
        for key in ("model.pool", "train.classes"):
            block, name = key.split(".")
            old, new = (getattr(getattr(cfg, block), name) for cfg in (before.cfg, self.cfg))
            if old != new:
                raise ConfigError("", key, f"{old!r} in the stage before, {new!r} here: the head would not fit")
