"""Learning rate, weight decay, momentum, teacher temperature and loss weights as functions of the step.

Two key styles of the YAML end in the same arrays: ``schedules.*`` (start, peak, end of each quantity) when that block
is present, else ``optim.*`` and ``teacher.*``. All are read here and nowhere else. Units in the YAML are epochs of
``train.OFFICIAL_EPOCH_LENGTH`` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinov3.config.blocks.train import TaskOptimConfig
from dinov3.config.derived import images_per_process
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config, ScheduleConfig, SchedulesConfig

# The factor by which a learning rate for the reference batch is multiplied, from the images of one optimizer step.
SCALING_RULES: dict[str, Callable[[int], float]] = {
    "linear_wrt_256": lambda effective_batch: effective_batch / 256.0,
    "sqrt_wrt_1024": lambda effective_batch: 4 * math.sqrt(effective_batch / 1024.0),
    "none": lambda effective_batch: 1.0,
}


@dataclass(frozen=True)
class Schedule:
    """One value a step; ``final`` from the end of ``values`` on."""

    values: NDArray[np.float64]  # [steps]
    final: float

    def __getitem__(self, step: int) -> float:
        if step < 0:
            raise IndexError(f"step {step}: schedules start at 0")
        return float(self.values[step]) if step < len(self.values) else self.final


@dataclass(frozen=True)
class StepSchedule:
    """The values of one step."""

    lr: float
    last_layer_lr: float
    wd: float
    momentum: float
    teacher_temp: float

    def row(self) -> dict[str, float]:
        """Under the names of metrics.jsonl, which are DINOv3's."""
        return {
            "lr": self.lr,
            "last_layer_lr": self.last_layer_lr,
            "wd": self.wd,
            "mom": self.momentum,
            "teacher_temp": self.teacher_temp,
        }


@dataclass(frozen=True)
class Rates:
    """Learning rate and weight decay of one step."""

    lr: float
    wd: float

    @property
    def last_layer_lr(self) -> float:
        """No layer waits for the others here."""
        return self.lr

    def row(self) -> dict[str, float]:
        """Under their names in metrics.jsonl."""
        return {"lr": self.lr, "wd": self.wd}


@dataclass(frozen=True)
class RateSchedules:
    """What an optimizer without an EMA follows."""

    lr: Schedule
    weight_decay: Schedule
    total_steps: int

    def at(self, step: int) -> Rates:
        """The values of ``step``; the final ones beyond the end."""
        return Rates(self.lr[step], self.weight_decay[step])

    def table(self, batch: int, until: int) -> str:
        """The resolved schedules, for the start of the log; arguments as for ``Schedules.table``."""
        return "\n".join(
            [
                f"{'schedule':<14}{'start':>11}{'peak':>11}{'end':>11}",
                *(_row(name, getattr(self, name), self.total_steps) for name in ("lr", "weight_decay")),
                f"{until} steps of {batch}: {until * batch} samples",
            ]
        )


LONG_WARMUP = 0.3  # of a run: beyond it little is left to learn in


@dataclass(frozen=True)
class Schedules:
    """Everything the optimizer and the teacher follow over a run."""

    lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    teacher_temp: Schedule
    last_layer_lr: Schedule
    warmup_steps: int  # of lr
    total_steps: int
    lr_scale: float  # factor of the scaling rule
    epoch_steps: int  # in one of optim.epochs

    def at(self, step: int) -> StepSchedule:
        """The values of ``step``; the final ones beyond the end."""
        return StepSchedule(
            lr=self.lr[step],
            last_layer_lr=self.last_layer_lr[step],
            wd=self.weight_decay[step],
            momentum=self.momentum[step],
            teacher_temp=self.teacher_temp[step],
        )

    def table(self, effective_batch: int, until: int) -> str:
        """The resolved schedules, for the start of the log.

        ``effective_batch``: images a step over all processes; ``until``: the step the run ends at, ``total_steps`` unless
        ``train.max_steps`` is below.
        """
        names = ("lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp")
        lines = [
            f"{'schedule':<14}{'start':>11}{'peak':>11}{'end':>11}",
            *(_row(name, getattr(self, name), self.total_steps) for name in names),
            f"lr is scaled by {self.lr_scale:.6g} and warms up for {self.warmup_steps} steps",
            f"{until} steps of {effective_batch} images: {until * effective_batch} samples; one of optim.epochs is "
            f"{self.epoch_steps} steps",
        ]
        if until == self.total_steps and self.warmup_steps > LONG_WARMUP * until:
            lines.append(
                f"the learning rate rises for {self.warmup_steps} of {until} steps: lower optim.warmup_epochs for so short a run"
            )
        if until < self.total_steps:
            lines.append(
                f"train.max_steps ends the run there; the schedules above are those of {self.total_steps} steps"
            )
        return "\n".join(lines)


def _row(name: str, schedule: Schedule, total_steps: int) -> str:
    """First value, largest value and last value that is trained with."""
    first, last = schedule[0], schedule[max(total_steps - 1, 0)]
    peak = max(last, float(schedule.values[:total_steps].max(initial=first)))
    return f"{name:<14}{first:>11.4g}{peak:>11.4g}{last:>11.4g}"


def linear_warmup_cosine_decay(
    start: float,
    peak: float,
    end: float,
    warmup_iterations: int,
    total_iterations: int,
    cosine_iterations: int | None = None,
) -> Schedule:
    """From ``start`` straight up to ``peak`` (not reached in the warm-up), down a cosine to ``end``, then ``end``.

    The cosine includes both of its ends. It lasts ``cosine_iterations``, or all steps after the warm-up when None.
    """
    if cosine_iterations is None:
        cosine_iterations = total_iterations - warmup_iterations
    rest = total_iterations - warmup_iterations - cosine_iterations
    if min(warmup_iterations, cosine_iterations, rest) < 0:
        raise ValueError(f"warm-up {warmup_iterations} + cosine {cosine_iterations} steps > total {total_iterations}")
    warmup = np.linspace(start, peak, warmup_iterations, endpoint=False, dtype=np.float64)
    share = (np.cos(np.linspace(0, np.pi, cosine_iterations)) + 1) / 2  # 1 .. 0
    return Schedule(np.concatenate([warmup, end + (peak - end) * share, np.full(rest, float(end))]), float(end))


def cosine_schedule(
    base_value: float,
    final_value: float,
    total_iters: int,
    warmup_iters: int = 0,
    start_warmup_value: float = 0.0,
    freeze_iters: int = 0,
    trunc_extra: float = 0.0,
) -> Schedule:
    """``freeze_iters`` zeros, a warm-up that reaches ``base_value``, then a cosine towards ``final_value``.

    The cosine's last step is one short of ``final_value``, which every later step has. With ``trunc_extra`` the cosine
    is that of a run longer by this share, cut at ``total_iters`` and stretched to end on ``final_value``.
    """
    cosine_iters = total_iters - freeze_iters - warmup_iters
    if min(cosine_iters, freeze_iters, warmup_iters) < 0:
        raise ValueError(f"freeze {freeze_iters} + warm-up {warmup_iters} steps > total {total_iters}")
    warmup = np.linspace(start_warmup_value, base_value, warmup_iters, dtype=np.float64)
    if trunc_extra == 0 or cosine_iters < 2:
        share = (np.cos(np.pi * np.arange(cosine_iters) / max(cosine_iters, 1)) + 1) / 2
    else:
        share = (np.cos(np.linspace(0, np.pi, int((1 + trunc_extra) * cosine_iters))[:cosine_iters]) + 1) / 2
        share = (share - share[-1]) / (1 - share[-1])
    values = np.concatenate([np.zeros(freeze_iters), warmup, final_value + (base_value - final_value) * share])
    return Schedule(values, float(final_value))


def build_schedules(cfg: Config, world_size: int) -> Schedules:
    """The schedules of a run, from ``cfg.schedules`` or else ``cfg.optim`` and ``cfg.teacher``.

    The scaling rule acts on the peak and the end of the learning rate (``schedules.lr``), or on ``optim.lr`` alone.

    Raises:
        ValueError: unknown ``optim.scaling_rule``, or phases longer than the run.
    """
    effective_batch = images_per_process(cfg) * world_size
    scale = lr_scale(cfg.optim.scaling_rule, effective_batch)
    blocks = cfg.schedules
    warmup: float  # epochs
    frozen: float
    if blocks is None:
        lr, weight_decay, momentum, teacher_temp = _from_optim(cfg, scale)
        warmup, frozen = cfg.optim.warmup_epochs, cfg.optim.freeze_last_layer_epochs
    else:
        lr, weight_decay, momentum, teacher_temp = _from_blocks(cfg, blocks, scale)
        warmup, frozen = blocks.lr.warmup_epochs, blocks.lr.freeze_last_layer_epochs
    last_layer = lr.values.copy()
    last_layer[: _steps(cfg, frozen)] = 0
    return Schedules(
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        teacher_temp=teacher_temp,
        last_layer_lr=Schedule(last_layer, lr.final),
        warmup_steps=_steps(cfg, warmup),
        total_steps=_steps(cfg, cfg.optim.epochs),
        lr_scale=scale,
        epoch_steps=_steps(cfg, 1),
    )


def build_rates(cfg: TaskOptimConfig, epoch: int) -> RateSchedules:
    """The schedules of a task's ``optim``: a warm-up of the learning rate, a cosine behind it; weight decay is constant.

    ``epoch``: optimizer steps of one. The warm-up does not begin at 0: the first of w steps has 1 / w of the peak, so that
    none is wasted. Raises ConfigError for a warm-up longer than the run.
    """
    total, warm = cfg.epochs * epoch, cfg.warmup_steps
    if warm >= total:
        raise ConfigError("", "optim.warmup_steps", f"{warm} steps, the run has {total}: shorten it or train longer")
    rising = cfg.lr * np.arange(1, warm + 1) / max(warm, 1)
    falling = cosine_schedule(cfg.lr, cfg.min_lr, total - warm).values
    return RateSchedules(
        Schedule(np.concatenate([rising, falling]), float(cfg.min_lr)), constant(cfg.weight_decay), total
    )


def lr_scale(rule: str, effective_batch: int) -> float:
    """Factor of the learning rate at ``effective_batch`` images a step. Raises ValueError for an unknown rule."""
    if rule not in SCALING_RULES:
        raise ValueError(f"optim.scaling_rule {rule!r}: choose from {sorted(SCALING_RULES)}")
    return SCALING_RULES[rule](effective_batch)


def loss_weight_schedule(cfg: Config) -> Schedule:
    """Weight of the Gram loss: ``gram.loss_weight_schedule``, or ``gram.loss_weight`` at all steps."""
    block = cfg.gram.loss_weight_schedule
    return constant(cfg.gram.loss_weight) if block is None else _block(cfg, "gram.loss_weight_schedule", block)


def feature_weight_schedule(cfg: Config, block: Literal["feature_anchor", "feature_distillation"]) -> Schedule:
    """Weight of the distance to frozen features: the block's ``loss_weight_schedule``, or its ``loss_weight``."""
    settings = cfg.feature_anchor if block == "feature_anchor" else cfg.feature_distillation
    schedule = settings.loss_weight_schedule
    return (
        constant(settings.loss_weight) if schedule is None else _block(cfg, f"{block}.loss_weight_schedule", schedule)
    )


def local_loss_weight_schedule(cfg: Config) -> Schedule:
    """Weight of the DINO loss on local crops: its schedule with ``dino.reweight_dino_local_loss``, else 1."""
    if not cfg.dino.reweight_dino_local_loss:
        return constant(1.0)
    return _block(cfg, "dino.local_loss_weight_schedule", cfg.dino.local_loss_weight_schedule)


def constant(value: float) -> Schedule:
    """``value`` at every step."""
    return Schedule(np.empty(0), float(value))


def _steps(cfg: Config, epochs: float) -> int:
    return round(epochs * cfg.train.OFFICIAL_EPOCH_LENGTH)


def _block(cfg: Config, key: str, block: ScheduleConfig, scale: float = 1.0) -> Schedule:
    cosine = None if block.cosine_epochs is None else _steps(cfg, block.cosine_epochs)
    warmup, total = _steps(cfg, block.warmup_epochs), _steps(cfg, cfg.optim.epochs)
    try:
        return linear_warmup_cosine_decay(block.start, block.peak * scale, block.end * scale, warmup, total, cosine)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _from_blocks(cfg: Config, blocks: SchedulesConfig, scale: float) -> tuple[Schedule, Schedule, Schedule, Schedule]:
    """lr, weight decay, momentum and teacher temperature of the ``schedules`` block."""
    return (
        _block(cfg, "schedules.lr", blocks.lr, scale),
        _block(cfg, "schedules.weight_decay", blocks.weight_decay),
        _block(cfg, "schedules.momentum", blocks.momentum),
        _block(cfg, "schedules.teacher_temp", blocks.teacher_temp),
    )


def _from_optim(cfg: Config, scale: float) -> tuple[Schedule, Schedule, Schedule, Schedule]:
    """lr, weight decay, momentum and teacher temperature of the ``optim`` and ``teacher`` keys."""
    optim, teacher, total = cfg.optim, cfg.teacher, _steps(cfg, cfg.optim.epochs)
    extra, warm = optim.schedule_trunc_extra, _steps(cfg, teacher.warmup_teacher_temp_epochs)
    try:
        lr = cosine_schedule(
            optim.lr * scale, optim.min_lr, total, warmup_iters=_steps(cfg, optim.warmup_epochs), trunc_extra=extra
        )
    except ValueError as error:
        raise ValueError(f"optim.warmup_epochs {optim.warmup_epochs}: {error}") from error
    weight_decay = cosine_schedule(optim.weight_decay, optim.weight_decay_end, total, trunc_extra=extra)
    momentum = cosine_schedule(teacher.momentum_teacher, teacher.final_momentum_teacher, total, trunc_extra=extra)
    temp = cosine_schedule(teacher.teacher_temp, teacher.teacher_temp, warm, warm, teacher.warmup_teacher_temp)
    return lr, weight_decay, momentum, temp
