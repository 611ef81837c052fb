"""One training run of a diffusion transformer: how its parts are made from its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dinov3.config.dit import DitConfig
from dinov3.config.errors import ConfigError
from dinov3.distributed import context
from dinov3.distributed.agreement import all_processes_or_none, main_decides
from dinov3.engine import precision
from dinov3.engine.banner import device_line, processes_line
from dinov3.engine.job import Job
from dinov3.engine.look import Look
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.features.extract import load
from dinov3.generate.inputs.base import LatentCoder
from dinov3.generate.inputs.open import latent_coder
from dinov3.generate.inputs.vae import VaeLatents
from dinov3.generate.training.batch import DitBatch
from dinov3.generate.training.model_file import MODEL, read_dit
from dinov3.generate.training.shard_set import ShardSet
from dinov3.generate.training.statistics import Normaliser, statistics_of
from dinov3.generate.training.stream import BucketStream, Layout
from dinov3.generate.training.task import DitTask, first_visual_bias
from dinov3.generate.training.warm_start import load_warm
from dinov3.generate.validation.looks import looks
from dinov3.generate.validation.scene import DitScene
from dinov3.models.checkpointing import set_mode
from dinov3.models.diffusion.transformer import Alignment, DiffusionTransformer, DitSpec
from dinov3.runs.manifest import read_train_state
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.paths import expanded

# What two sets must have in common for one model to be shown both: their sizes may differ, what the numbers mean may not.
SAME = ("weights", "width", "patch", "pool", "text", "text_length", "text_width", "latents", "channels")


class DitJob(Job[DitBatch]):
    """What ``dinov3 dit train`` trains."""

    cfg: DitConfig
    product = "transformer"

    @cached_property
    def shards(self) -> ShardSet:
        """The training set; opened at the first call."""
        return ShardSet(expanded(self.cfg.train.dataset_path))

    @cached_property
    def measured(self) -> ShardSet:
        """What is measured on."""
        path = self.cfg.validation.path
        found = ShardSet(expanded(path)) if path else self.shards
        if other := [name for name in SAME if found.key.get(name) != self.shards.key.get(name)]:
            raise ConfigError(
                "config",
                "validation.path",
                f"{path}: differs from train.dataset_path in {', '.join(other)}: extract it again, in the same way",
            )
        return found

    def open_data(self) -> str:
        assert self.measured  # a mistake there would be known after the first steps only
        return self.shards.identity()

    def plan(self) -> RateSchedules:
        """An epoch is one pass over the set."""
        return build_rates(self.cfg.optim, max(1, sum(self.shards.counts) // images_a_step(self.cfg)))

    def spec(self) -> DitSpec:
        """The transformer for these shards."""
        own, form = self.cfg.transformer, self.shards.form
        keys = 1 + max(rows * cols for rows, cols in map(form.grid, self.shards.buckets))
        return DitSpec(
            channels=form.channels,
            text_width=form.text_width,
            feature_width=form.width if own.features else 0,
            width=own.width,
            depth=own.depth,
            heads=own.heads,
            mlp_ratio=own.mlp_ratio,
            patches=own.patches,
            positions=own.positions,
            visual_bias=first_visual_bias(keys) if own.visual_bias else None,
        )

    def build(self, start: Start, device: torch.device) -> tuple[DitTask, list[str]]:
        """Every process calls it; the main one computes statistics that are not there yet."""
        moments = main_decides(lambda: statistics_of(self.shards))

        def assemble() -> tuple[DitTask, list[str]]:
            self._open_what_measures()
            cfg, random = self.cfg, torch.Generator().manual_seed(self.cfg.train.seed)
            dit, spec = DiffusionTransformer(self.spec()), self.spec()
            dit.init_weights(random)
            alignment = Alignment(spec.width, spec.feature_width, cfg.repa.hidden) if cfg.repa.weight else None
            if alignment is not None:
                alignment.init_weights(random)
            report, lines = self._warm_start(dit, start)
            set_mode(dit, "full" if cfg.train.recompute else "none")
            chosen = precision.resolve(cfg.train.precision, device)
            facts = {"key": self.shards.key, "shift_base": cfg.flow.shift_base}
            task = DitTask(cfg, dit, Normaliser.of(moments), chosen, facts, alignment)
            task.report = report
            return task, lines

        return all_processes_or_none(assemble)

    def _warm_start(self, dit: DiffusionTransformer, start: Start) -> tuple[dict[str, Any], list[str]]:
        """Weights to begin with, and their report; a run that goes on has all in its checkpoint."""
        given = self.cfg.warm_start
        if start.found is not None:
            return read_train_state(start.found).get("warm_start", {}), []
        if not given.weights:
            return {}, []
        stored = read_dit(expanded(given.weights))
        report = load_warm(dit, stored.part(MODEL), str(stored.path), given.allow)
        return report.to_json(), report.lines()

    def stream(self, task: DitTask, counters: Counters) -> BucketStream:
        train = self.cfg.train
        layout = Layout(
            train.batch_size_per_gpu, train.gradient_accumulation_steps, context.rank(), context.world_size()
        )
        return BucketStream(
            self.shards,
            seed=train.seed,
            position=counters.samples,
            layout=layout,
            device=task.device,
            threads=usable_workers(train.num_workers),
        )

    def looks(self) -> Sequence[Look[Any]]:
        return looks(self.cfg)

    def scene(self, task: DitTask, step: int, records: Records | None) -> DitScene | None:
        if records is None:
            return None
        return DitScene(
            self.cfg,
            self.run,
            step,
            task.ema,
            task.normaliser,
            self.measured,
            task.device,
            lambda: self._coder,
            self._features if self.cfg.validation.backbone else None,
        )

    def _open_what_measures(self) -> None:
        """What cannot be opened is known before training, not at its first evaluation."""
        if self.cfg.validation.vae:
            assert self._coder is not None
        if self.cfg.validation.backbone:
            assert self._features is not None

    @cached_property
    def _coder(self) -> LatentCoder | None:
        if self.cfg.validation.vae:
            return VaeLatents.load(self.cfg.validation.vae)
        name = str(self.shards.key.get("latents"))
        return latent_coder(name) if name == "pixels" else None

    @cached_property
    def _features(self) -> Callable[[Tensor], Tensor]:
        extractor = load(expanded(self.cfg.validation.backbone), size="native", batch_size=8)
        return lambda images: extractor.extract(images, pool="cls")

    def banner(self, trainer: Trainer[DitBatch]) -> list[str]:
        task = trainer.task
        assert isinstance(task, DitTask)
        counts = self.shards.counts
        parameters = sum(p.numel() for p in task.dit.parameters())
        buckets = ", ".join(f"{bucket} {n:,}" for bucket, n in zip(self.shards.buckets, counts, strict=True))
        return [
            device_line(task.device, f"{task.precision.name}: {task.precision.reason}"),
            processes_line(trainer),
            f"data       {self.shards.folder}: {sum(counts):,} samples ({buckets})",
            f"model      {parameters:,} parameters, {task.dit.spec}",
        ]

    def files(self) -> dict[str, str | None]:
        cfg = self.cfg
        return {"warm_start.weights": cfg.warm_start.weights, "validation.backbone": cfg.validation.backbone}
