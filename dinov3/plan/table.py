"""A plan as people read it."""

from __future__ import annotations

from collections import Counter

from dinov3.config.derived import images_per_process
from dinov3.plan.counting import on_the_wire
from dinov3.plan.estimate import CONTEXT, USABLE, Plan
from dinov3.plan.step import KINDS

UNITS = {"GiB": 2**30, "MiB": 2**20}


def table(made: Plan) -> str:
    """Lines without an end. Memory is in GiB, or in MiB where a process takes less than one."""
    return "\n".join([*_model(made), *_memory(made), *_sharding(made), *_traffic(made), *_time(made)])


def _model(made: Plan) -> list[str]:
    cfg, cost, n = made.cfg, made.cost, images_per_process(made.cfg)
    parts = cfg.train.gradient_accumulation_steps
    batch = f"{cfg.train.batch_size_per_gpu}" + (f" x {parts} accumulated" if parts > 1 else "")
    processes = f"{made.gpus} process{'es' if made.gpus > 1 else ''}, no card named"
    cards = processes if made.card is None else f"{made.gpus:,} x {made.card.name} ({made.card.tflops:g} TFLOP/s bf16)"
    lines = [
        f"student    {cfg.student.arch}, {cost.parameters / 1e6:,.1f} M parameters train (backbone and heads)",
        f"machine    {cards}" + (f", {made.per_machine} a machine" if made.gpus > 1 else ""),
        f"step       {batch} images a process, {made.images:,} in all, in {str(made.dtype).removeprefix('torch.')}",
        f"work       {_digits(made.flops_an_image / 1e9)} GFLOP an image, {_digits(made.model_flops / 1e12)} TFLOP a step and process",
    ]
    if cost.flops > 1.1 * made.model_flops:
        lines.append(
            f"           {_digits(cost.flops / n / 1e9)} GFLOP an image are computed: activations again, for less memory"
        )
    return lines


def _memory(made: Plan) -> list[str]:
    cost, (unit, size) = made.cost, _unit(made)
    rows = [f"           {kind:24s}{cost.peak.get(kind, 0) / size:9.2f} {unit}" for kind in KINDS]
    lines = [f"memory     {cost.peak_bytes / size:.2f} {unit} a process at the peak of an eager step", *rows]
    lines.append(f"           ({made.logits / size:.2f} {unit} are logits of both heads; torch.compile keeps less)")
    if made.card is not None and made.usable is not None:
        word = "fits into" if cost.peak_bytes <= made.usable else "DOES NOT FIT into"
        lines.append(
            f"           {word} {made.usable / UNITS['GiB']:.1f} GiB: {USABLE:.0%} of {made.card.memory / 1e9:g} GB, less "
            f"{CONTEXT / 1e9:g} GB for CUDA"
        )
        lines.append(f"           largest batch that fits: {made.largest_batch:,} images a process at once")
    return lines


def _sharding(made: Plan) -> list[str]:
    lines, (unit, size) = [f"sharding   {made.cost.strategy} ({made.cost.reason})"], _unit(made)
    lines.append(
        f"           {unit} a process{'weights':>14s}{'teachers':>10s}{'moments':>10s}{'gradients':>11s}{'together':>10s}"
    )
    for state in made.states:
        numbers = (state.weights, state.frozen, state.moments, state.gradients, state.total)
        cells = "".join(f"{value / size:{width}.2f}" for value, width in zip(numbers, (9, 10, 10, 11, 10), strict=True))
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
    lines = [f"sent       {made.sent_bytes / 1e9:.3f} GB by each process in a step (rings)"]
    for (operation, processes), count in sorted(counts.items()):
        gigabytes = sizes[operation, processes] / 1e9
        lines.append(f"           {operation.strip('_'):22s}{count:6d} among {processes:5d} {gigabytes:10.3f} GB")
    return lines


def _time(made: Plan) -> list[str]:
    if made.hours is None or made.seconds_a_step is None:
        return ["time       name a card (--card h100) for time and for what fits"]
    return [
        f"time       {_digits(made.seconds_a_step)} s a step, {made.images / made.seconds_a_step:,.0f} images/s, if a step "
        f"reaches {made.share:.0%} of the peak (--share)",
        f"           {made.steps:,} steps: {_digits(made.hours)} hours, {_digits(made.hours * made.gpus)} GPU hours, without "
        "evaluations and saves",
    ]


def _unit(made: Plan) -> tuple[str, int]:
    return next((unit for unit in UNITS.items() if made.cost.peak_bytes >= unit[1]), ("MiB", UNITS["MiB"]))


def _digits(number: float) -> str:
    return f"{number:,.2f}" if 1 <= number < 100 else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
