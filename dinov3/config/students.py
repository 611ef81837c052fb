"""``multidistillation``: several students of one frozen teacher, trained together by parts of the processes.

    multidistillation:
      enabled: true
      global_batch_size: 2048                                  # each student sees all of it
      students:
      - {name: vits, config_path: vits.yaml, ranks_range: [0, 8]}      # processes 0 to 7
      - {name: vitb, config_path: vitb.yaml, ranks_range: [8, 24]}
    distillation: …                                            # the teacher; what stands here is for every student

A student's config is this file, with its own file laid over it and the command line over both. Its batch a process
follows from ``global_batch_size``; its own ``multidistillation``, batch size and output folder say nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinov3.config.errors import ConfigError
from dinov3.config.recipes import config_file
from dinov3.config.references import flat
from dinov3.config.schema import Config, MultidistillationConfig
from dinov3.config.stages import BLOCKS, NAME, NAMES, Layer
from dinov3.config.yaml_file import Tree, read_yaml

BLOCK = "multidistillation"
# What a run or its job keeps in the folder of all.
RESERVED = {"ckpt", "slurm", "hang", "not_finite", "pictures", "config_history", "tensorboard", "wandb"}
SHARED = "the teacher's pass is shared"
# Keys that decide which images, crops and masks a step has, how many steps there are and when all wait for one.
COMMON = (
    *(
        "compute_precision.param_dtype",
        "train.dataset_path",
        "train.seed",
        "train.device",
        "train.OFFICIAL_EPOCH_LENGTH",
        "train.max_steps",
    ),
    *("train.gradient_accumulation_steps", "optim.epochs", "student.patch_size", "student.in_chans"),
    *("crops.", "data.", "distillation.", "ibot.mask_", "checkpointing.period"),
    *("evaluation.knn.period", "evaluation.drift.period", "evaluation.dense.period", "evaluation.pictures_period"),
)


@dataclass(frozen=True)
class Student:
    """One of several runs that share a teacher's pass. ``ranks``: its processes among all that were started."""

    name: str
    ranks: range
    cfg: Config


def layers_of_students(
    settings: MultidistillationConfig, layers: Sequence[Layer], given: int, command_line: str
) -> list[tuple[str, range, list[Layer]]]:
    """Name, processes and what says something about its config, lowest first, of each student.

    The first ``given`` of ``layers`` are files, the rest the command line. ConfigError for a layout that cannot be used.
    """
    source = layers[0][0] if layers else command_line
    for said_by, tree in layers:
        if stages := {NAMES, BLOCKS} & set(tree):
            raise ConfigError(said_by, min(stages), f"does not go with {BLOCK}: run the stages one by one")
    check_layout(settings, source)
    for said_by, tree in layers[given:]:
        if isinstance(tree.get("train"), dict) and "batch_size_per_gpu" in tree["train"]:
            raise ConfigError(said_by, "train.batch_size_per_gpu", f"follows from {BLOCK}.global_batch_size: set that")
    students = []
    for student in settings.students:
        ranks, path = range(*student.ranks_range), config_file(student.config_path)
        if not path.exists():
            raise ConfigError(
                source, f"{BLOCK}.students", f"{path}: no such file below {Path.cwd()}, where config_path begins"
            )
        own = {k: v for k, v in read_yaml(path).items() if k != BLOCK}
        if isinstance(own.get("train"), dict):  # what else it may be is for the schema to refuse
            own["train"].pop("output_dir", None)
        assert settings.global_batch_size is not None
        batch: Tree = {"train": {"batch_size_per_gpu": settings.global_batch_size // len(ranks)}}
        own_layers = [*layers[:given], (str(path), own), *layers[given:], (f"{source}: {BLOCK}", batch)]
        students.append((student.name, ranks, copy.deepcopy(own_layers)))  # trees are changed where they are read
    return students


def check_layout(settings: MultidistillationConfig, source: str) -> None:
    """ConfigError when names, ranges of processes or batch do not fit together."""
    key = f"{BLOCK}.students"
    if not settings.students:
        raise ConfigError(source, key, "is empty: give at least one student")
    if settings.global_batch_size is None:
        raise ConfigError(source, f"{BLOCK}.global_batch_size", "is missing: images a step, the same for every student")
    names = [student.name for student in settings.students]
    for name in names:
        if not NAME.fullmatch(name) or name in RESERVED:
            taken = f", and not one of {', '.join(sorted(RESERVED))}"
            raise ConfigError(source, key, f"{name!r} names a folder: use letters, digits, - and _{taken}")
        if names.count(name) > 1:
            raise ConfigError(source, key, f"{name} stands there twice")
    expected = 0
    for student in sorted(settings.students, key=lambda s: s.ranks_range[0]):
        first, end = student.ranks_range
        if first != expected or end <= first:
            problem = (
                f"{student.name} has ranks_range {student.ranks_range}, expected [{expected}, more than {expected}]"
            )
            raise ConfigError(source, key, f"{problem}: every process from 0 on has one student")
        expected = end
    _check_batch(settings.global_batch_size, [len(range(*s.ranks_range)) for s in settings.students], source)


def _check_batch(batch: int, sizes: Sequence[int], source: str) -> None:
    """Each process of a student holds as many images as its others. Who asks the teacher may be uneven by one."""
    unit = math.lcm(*sizes)
    if batch % unit:
        fitting = " or ".join(str(n) for n in (batch // unit * unit, (batch // unit + 1) * unit) if n)
        parts = f"{sum(sizes)} processes, {' + '.join(map(str, sizes))}"
        raise ConfigError(
            source, f"{BLOCK}.global_batch_size", f"{batch} cannot be shared out among {parts}: use {fitting}"
        )


def check_students(students: Sequence[Student], source: str) -> None:
    """ConfigError for settings that do not go with several students, or that must be the same for all and are not."""
    for student in students:
        where, cfg = f"{source}: student {student.name}", student.cfg
        if not cfg.distillation.enabled:
            raise ConfigError(where, "distillation.enabled", f"false, but {SHARED}: set it to true")
        if cfg.train.gradient_accumulation_steps > 1:
            raise ConfigError(where, "train.gradient_accumulation_steps", f"does not go with {BLOCK}: set it to 1")
        if cfg.gram.use_loss and cfg.gram.ema_teacher:
            raise ConfigError(where, "gram.ema_teacher", f"true, but {SHARED} without its patches: set it to false")
    first = _common(students[0].cfg)
    for student in students[1:]:
        for key, value in _common(student.cfg).items():
            if value != first[key]:
                raise ConfigError(
                    f"{source}: student {student.name}",
                    key,
                    f"{value!r}, but student {students[0].name} has {first[key]!r}: {SHARED}, so make them equal",
                )


def _common(cfg: Config) -> dict[str, Any]:
    return {k: v for k, v in flat(asdict(cfg)) if f"{k}.".startswith(COMMON) and not isinstance(v, dict)}
