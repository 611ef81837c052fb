"""A pretraining run: how its parts are made from its config."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from dinov3.config.changes import changed_keys
from dinov3.config.checks_continued import refuse_an_idle_backbone
from dinov3.config.derived import largest_global_crop
from dinov3.config.dump import to_dict
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.loader import CropLoader
from dinov3.data.sources import Source
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.data.storage.identity import Identity, Match
from dinov3.distributed import context
from dinov3.distributed.peers import ALONE, Peers
from dinov3.engine.job import DataMatch, Job
from dinov3.engine.look import Look
from dinov3.engine.schedules import Schedules, build_schedules
from dinov3.engine.task import Counters
from dinov3.engine.trainer import Trainer
from dinov3.eval.online.looks import looks
from dinov3.eval.online.scene import Scene
from dinov3.models.build import build_backbone
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot
from dinov3.runs.alarms import Rule
from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.train.alarms import rules_for
from dinov3.train.banner import lines
from dinov3.train.dataset import checked_source, record_damage
from dinov3.train.flops import flops_an_image
from dinov3.train.model import build_model
from dinov3.train.promise import doubts
from dinov3.train.start_from import counters_after, take_over_moments
from dinov3.train.task import Pretraining


class PretrainingJob(Job[CropBatch]):
    """What ``dinov3 train`` trains."""

    cfg: Config
    product = "backbone"

    def __init__(self, cfg: Config, run: RunFolder, peers: Peers = ALONE, *, said: str = "") -> None:
        """``said``: a line of the start-up block about what was chosen for the user."""
        super().__init__(cfg, run, peers)
        self._said = [said] if said else []
        self._source: Source | None = None
        self._doubts: list[str] = []  # about its images

    @property
    def source(self) -> Source:
        """The images; opened and checked at the first call."""
        if self._source is None:
            source = checked_source(self.cfg, context.world_size())
            refuse_output_inside(source, self.run.path)
            if context.is_main():
                self._doubts = doubts(self.cfg, source)
            self._source = source
        return self._source

    @cached_property
    def _identity(self) -> Identity:
        return self.source.identity()

    def open_data(self) -> str:
        return self._identity.content

    def compare_data(self, recorded: str) -> DataMatch:
        match = self._identity.compare(recorded)
        return DataMatch(same=match is not Match.DIFFERENT, proven=match is Match.SAME)

    def flops_of_a_sample(self) -> float:
        return flops_an_image(self.cfg)

    def closing(self) -> list[str]:
        """How many images were replaced, and where they are listed; how to look at the run."""
        summary = BadSampleLog(self.run.bad_samples).summary()
        return [
            *([] if summary is None else [summary]),
            f"one page of it: dinov3 report {shlex.quote(str(self.run.path))}",
        ]

    def plan(self) -> Schedules:
        return build_schedules(self.cfg, context.world_size())

    def build(self, start: Start, device: torch.device) -> tuple[Pretraining, list[str]]:
        model, done = build_model(self.cfg, device, start, self.peers, self.source)
        refuse_an_idle_backbone(self.cfg, heads_missing=model.heads_missing)
        return Pretraining(model), done

    def begin(self, task: Pretraining, start: Start, optimizer: torch.optim.Optimizer) -> Counters:
        if start.beginning is None:
            return Counters()
        if self.cfg.start.optimizer:
            take_over_moments(task.model, optimizer, start.beginning)
        return counters_after(start.beginning)

    def stream(self, task: Pretraining, counters: Counters) -> CropLoader:
        cfg = self.cfg
        bad_samples = BadSampleLog(self.run.bad_samples)
        record_damage(self.source, bad_samples)
        workers = usable_workers(cfg.train.num_workers)
        return CropLoader(
            dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, num_workers=workers)),
            self.source,
            position=counters.samples,
            rank=context.rank(),
            world_size=context.world_size(),
            device=task.device,
            dtype=task.model.precision.dtype,
            on_bad=bad_samples,
            timeout=cfg.train.watchdog_seconds / 2,  # first: it can name the image and the worker
        )

    def looks(self) -> Sequence[Look[Any]]:
        return looks(self.cfg)

    def scene(self, task: Pretraining, step: int, records: Records | None) -> Scene | None:
        backbone = task.whole_backbone(task.device)
        if records is None or backbone is None:
            return None
        return Scene(self.cfg, self.run, step, backbone, self.source, records, self.progress)

    def alarm_rules(self) -> Sequence[Rule]:
        return rules_for(self.cfg) if self.cfg.evaluation.alarms else ()

    def banner(self, trainer: Trainer[CropBatch]) -> list[str]:
        return [*self._doubts, *self._said, *lines(trainer, self.cfg, self.source)]

    def files(self) -> Mapping[str, str | None]:
        cfg = self.cfg
        return {
            "start.run": cfg.start.run,
            "gram.ckpt": cfg.gram.ckpt if cfg.gram.use_loss else None,
            "student.pretrained_weights": cfg.student.pretrained_weights,
            "student.resume_from_teacher_chkpt": cfg.student.resume_from_teacher_chkpt,
            "distillation.full_cfg_path": cfg.distillation.full_cfg_path if cfg.distillation.enabled else None,
            "distillation.checkpoint_path": cfg.distillation.checkpoint_path if cfg.distillation.enabled else None,
            "feature_distillation.checkpoint": cfg.feature_distillation.checkpoint
            if cfg.feature_distillation.enabled
            else None,
        }

    def check_beginning(self, before: Job[CropBatch]) -> None:
        """ConfigError when the student or a head would not fit."""
        assert isinstance(before, PretrainingJob)
        name, theirs = before.run.path.name.split("-", 2)[-1], before.cfg
        here, there = shapes(self.cfg), shapes(theirs)
        if wrong := [k for k in sorted({*here, *there}) if here.get(k) != there.get(k)]:
            parts = ("student.", "dino.head_", "ibot.head_")
            changes = changed_keys(to_dict(theirs), to_dict(self.cfg))
            keys = [f"{k} {old!r} -> {new!r}" for k, (old, new) in changes.items() if k.startswith(parts)]
            first = wrong[0]
            raise ConfigError(
                "",
                "start.run",
                f"cannot begin from {name}: {len(wrong)} tensor(s) differ, first {first}: {there.get(first, 'none')} "
                f"there, {here.get(first, 'none')} here; changed: {', '.join(keys) or 'nothing'}",
            )
        if theirs.lora.enabled and self.cfg.start.student == "student":
            raise ConfigError("", "start.student", f"{name} trains LoRA adapters: set it to ema, which has them merged")


def shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the student and its two heads; nothing is allocated."""
    with torch.device("meta"):
        backbone = build_backbone(cfg.student, img_size=largest_global_crop(cfg), drop_path=False)
        heads = [Dino(cfg, backbone.embed_dim).student_modules(), Ibot(cfg, backbone.embed_dim).student_modules()]
        student = nn.ModuleDict({"backbone": backbone, **heads[0], **heads[1]})
    return {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
