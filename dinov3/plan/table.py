"""A plan as people read it."""

from __future__ import annotations

from collections import Counter

from dinov3.config.derived import images_per_process
from dinov3.plan.counting import on_the_wire
from dinov3.plan.estimate import CONTEXT, USABLE, Plan
from dinov3.plan.step import KINDS

GIB = 2**30


def table(made: Plan) -> str:
    """Lines without an end."""
    return "\n".join([*_model(made), *_memory(made), *_sharding(made), *_traffic(made), *_time(made)])


def _model(made: Plan) -> list[str]:
    cfg, cost, n = made.cfg, made.cost, images_per_process(made.cfg)
    parts = cfg.train.gradient_accumulation_steps
    batch = f"{cfg.train.batch_size_per_gpu}" + (f" x {parts} accumulated" if parts > 1 else "")
    card = "no card" if made.card is None else f"{made.card.name} ({made.card.tflops:g} TFLOP/s bf16)"
    lines = [
        f"student    {cfg.student.arch}, {cost.parameters / 1e6:,.1f} M parameters train (backbone and heads)",
        f"machine    {made.gpus} x {card}, {made.per_machine} a machine",
        f"step       {batch} images a GPU, {made.images:,} in all, in {str(made.dtype).removeprefix('torch.')}",
        f"work       {made.flops_an_image / 1e9:,.0f} GFLOP an image, {made.model_flops / 1e12:,.2f} TFLOP a step and GPU",
    ]
    if cost.flops > 1.1 * made.model_flops:
        lines.append(
            f"           {cost.flops / n / 1e9:,.0f} GFLOP an image are computed: activations again, for less memory"
        )
    return lines


def _memory(made: Plan) -> list[str]:
    cost = made.cost
    rows = [f"           {kind:24s}{cost.peak.get(kind, 0) / GIB:9.2f} GiB" for kind in KINDS]
    lines = [f"memory     {cost.peak_bytes / GIB:.2f} GiB a GPU at the peak of an eager step", *rows]
    lines.append(f"           ({made.logits / GIB:.2f} GiB are logits of both heads; torch.compile keeps less)")
    if made.card is not None and made.usable is not None:
        word = "fits into" if cost.peak_bytes <= made.usable else "DOES NOT FIT into"
        lines.append(
            f"           {word} {made.usable / GIB:.1f} GiB: {USABLE:.0%} of {made.card.memory / 1e9:g} GB, less "
            f"{CONTEXT / 1e9:g} GB for CUDA"
        )
        lines.append(f"           largest batch that fits: {made.largest_batch} images a GPU at once")
    return lines


def _sharding(made: Plan) -> list[str]:
    lines = [f"sharding   {made.cost.strategy} ({made.cost.reason})"]
    lines.append(
        f"           GiB a GPU{'weights':>18s}{'teachers':>10s}{'moments':>10s}{'gradients':>11s}{'together':>10s}"
    )
    for state in made.states:
        numbers = (state.weights, state.frozen, state.moments, state.gradients, state.total)
        cells = "".join(f"{value / GIB:{width}.2f}" for value, width in zip(numbers, (9, 10, 10, 11, 10), strict=True))
        mark = "*" if state.strategy == made.cost.strategy else " "
        lines.append(f"         {mark} {state.strategy:18s}{cells}")
    return lines


def _traffic(made: Plan) -> list[str]:
    if made.gpus == 1:
        return []
    counts: Counter[tuple[str, int]] = Counter()
    sizes: Counter[tuple[str, int]] = Counter()
    for sent, times in made.cost.sent.items():
        counts[sent.operation, sent.processes] += times
        sizes[sent.operation, sent.processes] += round(on_the_wire(sent) * times)
    lines = [f"sent       {made.sent_bytes / 1e9:.3f} GB by each GPU in a step (rings)"]
    for (operation, processes), count in sorted(counts.items()):
        gigabytes = sizes[operation, processes] / 1e9
        lines.append(f"           {operation.strip('_'):22s}{count:6d} among {processes:5d} {gigabytes:10.3f} GB")
    return lines


def _time(made: Plan) -> list[str]:
    if made.hours is None or made.seconds_a_step is None:
        return ["time       name a card (--card h100) for time and for what fits"]
    return [
        f"time       {made.seconds_a_step:.3f} s a step, {made.images / made.seconds_a_step:,.0f} images/s, if a step "
        f"reaches {made.share:.0%} of the peak (--share)",
        f"           {made.steps:,} steps: {made.hours:,.1f} hours, {made.hours * made.gpus:,.0f} GPU hours, without "
        "evaluations and saves",
    ]
