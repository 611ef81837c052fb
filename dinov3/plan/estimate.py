"""From counted steps to a card and a number of GPUs: does it fit, how large a batch, how long, how many GPU hours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dinov3.config.derived import images_per_process
from dinov3.config.schema import Config
from dinov3.contracts import GLOBAL_CROPS
from dinov3.engine.schedules import build_schedules
from dinov3.plan.counting import on_the_wire
from dinov3.plan.depth import cost_of_step, with_keys
from dinov3.plan.ghost import choice, masked_patches
from dinov3.plan.state import State, states
from dinov3.plan.step import FROZEN, MOMENTS, WEIGHTS, StepCost
from dinov3.system.cards import Card
from dinov3.train.flops import flops_an_image

# Of a card's memory: what torch's allocator cannot use between blocks, CUDA's and NCCL's own. An assumption.
USABLE, CONTEXT = 0.95, 2e9
FURTHEST = 64  # times the batch of the config that a second batch is counted with
SHARE = 0.35  # of the card's peak that a step reaches, when nobody says another


@dataclass(frozen=True)
class Plan:
    """What ``dinov3 plan`` tells. Bytes, seconds and operations of one process, unless it says otherwise."""

    cfg: Config
    card: Card | None
    gpus: int
    per_machine: int
    dtype: torch.dtype
    share: float
    cost: StepCost
    states: list[State]
    flops_an_image: float
    logits: int  # bytes of the student's and the teacher's
    largest_batch: int | None  # images a process; None: no card was named
    steps: int

    @property
    def usable(self) -> float | None:
        """Bytes of the card that a step may take."""
        return None if self.card is None else self.card.memory * USABLE - CONTEXT

    @property
    def images(self) -> int:
        """Of a step over all processes."""
        return images_per_process(self.cfg) * self.gpus

    @property
    def model_flops(self) -> float:
        """That one process has to compute in a step, at least."""
        return self.flops_an_image * images_per_process(self.cfg)

    @property
    def seconds_a_step(self) -> float | None:
        return None if self.card is None else self.model_flops / (self.share * self.card.tflops * 1e12)

    @property
    def hours(self) -> float | None:
        return None if (seconds := self.seconds_a_step) is None else seconds * self.steps / 3600

    @property
    def sent_bytes(self) -> float:
        """That one process sends in a step."""
        return sum(on_the_wire(sent) * count for sent, count in self.cost.sent.items())


def plan(
    cfg: Config,
    *,
    card: Card | None,
    gpus: int,
    per_machine: int,
    dtype: torch.dtype,
    share: float = SHARE,
    told: Callable[[str], object] = lambda what: None,
) -> Plan:
    """Everything about one config on ``gpus`` processes. ``told`` is called with what is counted next.

    Raises ConfigError for what cannot be sharded so, and what building the model raises.
    """
    settings: dict[str, Any] = {"dtype": dtype, "processes": gpus, "per_machine": per_machine}
    told("one step")
    cost = cost_of_step(cfg, **settings)
    told("a step with another batch")
    largest = None if card is None else _largest(cfg, cost, card, settings)
    told("operations an image")
    whole = choice(cfg, **settings)
    schedules = build_schedules(cfg, gpus)
    return Plan(
        cfg=cfg,
        card=card,
        gpus=gpus,
        per_machine=min(per_machine, gpus),
        dtype=dtype,
        share=share,
        cost=cost,
        states=states(whole.trained, whole.frozen, gpus, per_machine),
        flops_an_image=flops_an_image(cfg),
        logits=logits(cfg, dtype.itemsize),
        largest_batch=largest,
        steps=min(schedules.total_steps, cfg.train.max_steps or schedules.total_steps),
    )


def logits(cfg: Config, itemsize: int) -> int:
    """Bytes of student and teacher logits of one batch."""
    images = cfg.train.batch_size_per_gpu
    crops = (2 * GLOBAL_CROPS + cfg.crops.local_crops_number) * images  # of the teacher, and of the student
    numbers = crops * cfg.dino.head_n_prototypes + 2 * masked_patches(cfg) * cfg.ibot.head_n_prototypes
    return itemsize * numbers


def _largest(cfg: Config, cost: StepCost, card: Card, settings: dict[str, Any]) -> int:
    """Images a process. The peak is the largest of many sums that grow with the batch, so it bends upwards: from two small
    batches the answer would be too large. The second batch is therefore about the answer itself.
    """
    batch, usable = cfg.train.batch_size_per_gpu, card.memory * USABLE - CONTEXT
    state = sum(cost.peak.get(kind, 0) for kind in (WEIGHTS, FROZEN, MOMENTS))
    guess = int((usable - state) * batch / (cost.peak_bytes - state))
    other = min(max(guess, 2), FURTHEST * batch)
    other += other == batch
    strategy = with_keys(cfg, "compute_precision", sharding_strategy=cost.strategy)
    second = cost_of_step(with_keys(strategy, "train", batch_size_per_gpu=other), **settings)
    an_image = (cost.peak_bytes - second.peak_bytes) / (batch - other)
    return max(0, int(batch + (usable - cost.peak_bytes) / an_image))


def as_json(made: Plan) -> dict[str, Any]:
    """The plan as it is printed with ``--json``."""
    cost, card = made.cost, made.card
    return {
        "arch": made.cfg.student.arch,
        "gpus": made.gpus,
        "gpus_of_a_machine": made.per_machine,
        "card": None if card is None else card._asdict(),
        "number_format": str(made.dtype).removeprefix("torch."),
        "parameters": cost.parameters,
        "images_a_step": made.images,
        "steps": made.steps,
        "flops_an_image": made.flops_an_image,
        "flops_of_a_step": made.model_flops * made.gpus,
        "flops_of_a_process_with_recomputation": cost.flops,
        "sharding": {"strategy": cost.strategy, "reason": cost.reason},
        "peak_bytes": cost.peak_bytes,
        "peak": cost.peak,
        "logits_bytes": made.logits,
        "states": [state._asdict() | {"total": state.total} for state in made.states],
        "sent_bytes_of_a_process": made.sent_bytes,
        "collectives": [{**sent._asdict(), "a_step": count} for sent, count in sorted(cost.sent.items())],
        "usable_bytes": made.usable,
        "fits": None if made.usable is None else cost.peak_bytes <= made.usable,
        "largest_batch_of_a_process": made.largest_batch,
        "share_of_peak": made.share,
        "seconds_a_step": made.seconds_a_step,
        "hours": made.hours,
        "gpu_hours": None if made.hours is None else made.hours * made.gpus,
    }
