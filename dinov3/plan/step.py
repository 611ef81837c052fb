"""One optimizer step counted: what each process multiplies, holds and sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dinov3.config.schema import Config
from dinov3.distributed.imagined import group_of
from dinov3.distributed.parallel import Parallel
from dinov3.distributed.replicate import buckets
from dinov3.engine.optim import clip_per_submodule
from dinov3.engine.step import agreed, update
from dinov3.plan.counting import Counting, Sent, at_the_peak
from dinov3.plan.ghost import Ghost, ghost, own_modules
from dinov3.train.accumulation import accumulate

# Kinds of memory, in the order they are told.
WEIGHTS, FROZEN, MOMENTS, GRADIENTS, BATCH, WORK = (
    "weights",
    "EMA and other teachers",
    "optimizer moments",
    "gradients",
    "crops and masks",
    "activations and logits",
)
KINDS = (WEIGHTS, FROZEN, MOMENTS, GRADIENTS, BATCH, WORK)
TEACHER_TEMP, MOMENTUM, STEP = 0.07, 0.99, 1  # of a step that is not logged: values change nothing that is counted


@dataclass(frozen=True)
class StepCost:
    """Of one process in one optimizer step."""

    strategy: str  # of sharding
    reason: str
    parameters: int  # that train
    flops: int  # 2 x multiply-adds, those of activations that are computed again too
    peak: dict[str, int]  # bytes of each kind at the moment when most is held
    whole: dict[str, int]  # bytes of weights, teachers, moments and gradients, whenever they are there
    sent: Counter[Sent]
    gradient_sums: Counter[Sent]  # of whole copies; they are in ``sent`` too
    launches: int  # operators, eager

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())


def count_step(cfg: Config, *, dtype: torch.dtype, processes: int = 1, per_machine: int = 8) -> StepCost:
    """Run the second step of ``cfg`` on ``processes`` of which ``per_machine`` share a machine, and count it.

    Raises ConfigError for what cannot be sharded so, and what building the model raises. No group may be there.
    """
    with group_of(processes):
        made = ghost(cfg, dtype, min(per_machine, processes))
        with made.mode:
            return _counted(made, processes)


def _counted(made: Ghost, processes: int) -> StepCost:
    model, optimizer, counting = made.model, made.optimizer, Counting()
    kinds: dict[int, str] = {}

    def name(tensors: Iterable[Tensor], kind: str) -> int:
        for tensor in (own := [_local(t) for t in tensors]):
            kinds.setdefault(counting.see(tensor), kind)
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in own}.values())

    trained = list(model.student.parameters())
    others = [t for m in (*model._frozen(), *own_modules(model)) for t in (*m.parameters(), *m.buffers())]
    whole = {
        WEIGHTS: name([*trained, *model.student.buffers()], WEIGHTS),
        FROZEN: name(others, FROZEN),
        MOMENTS: name([v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)], MOMENTS),
    }
    name([t for batch in made.batches for t in vars(batch).values() if isinstance(t, Tensor)], BATCH)
    with counting.watching_resizes(), counting:
        run_step(made)
        gradients = [p.grad for p in trained if p.grad is not None]
        whole[GRADIENTS] = name(gradients, GRADIENTS)
    return StepCost(
        strategy=model.parallel.strategy,
        reason=model.parallel.reason,
        parameters=sum(p.numel() for p in trained if p.requires_grad),
        flops=counting.count.flops,
        peak=at_the_peak(counting.count.log, kinds, WORK),
        whole=whole,
        sent=counting.count.sent,
        gradient_sums=gradient_sums(trained, model.parallel, processes),
        launches=counting.count.launches,
    )


def run_step(made: Ghost) -> None:
    """What ``engine/step.py: train_step`` does, without reading the verdict: tensors without values have none."""
    model, optimizer = made.model, made.optimizer
    optimizer.zero_grad(set_to_none=True)
    model.before_step(STEP)
    loss, _ = accumulate(model, made.batches, teacher_temp=TEACHER_TEMP, iteration=STEP)
    model.finish_backward()
    norms = clip_per_submodule(model.student, model.cfg.optim.clip_grad)
    update(optimizer, agreed(loss, norms, stop_requested=False, save_ended=False))
    model.after_step(STEP, MOMENTUM)


def gradient_sums(trained: Iterable[Tensor], parallel: Parallel, processes: int) -> Counter[Sent]:
    """The all-reduces of ``EarlySums`` over whole copies; none where FSDP2 sums shards, or alone."""
    if processes == 1 or parallel.strategy != "NO_SHARD":
        return Counter()
    pieces = buckets(reversed([p for p in trained if p.requires_grad]))
    width = parallel.reduce_dtype.itemsize
    return Counter(Sent("allreduce_", width * sum(p.numel() for p in piece), processes) for piece in pieces)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
