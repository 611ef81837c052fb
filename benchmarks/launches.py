"""Graph breaks of a compiled step, and how many kernels its forward and backward pass start, before and after: a JSON line.

    python benchmarks/launches.py --arch vit_small --depth 2

Counted on a CPU: every operator that computes and every loop that the compiler writes stands for a kernel of a GPU; views
and allocations are not counted. The same step in the two forms it has on a GPU, all tokens computed: eager and plain
(``compute_precision.fused=never``), then compiled and fused. Compiling takes minutes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measure import print_row
from benchmarks.synthetic_step import Recipe, SyntheticStep
from dinov3.models.backbone import Backbone
from dinov3.models.execution import execution_of
from dinov3.train.parallelize import compile_module

TINY = {"global_size": 64, "local_size": 32, "locals": 2}
# Operators that start nothing on a GPU: they name memory that is there, ask for some, or stand before others.
NOTHING = re.compile(
    "(new_)?empty(_like|_strided)?|resize_|set_|item|_local_scalar_dense|result_type|resolve_(conj|neg)|(_unsafe_)?view(_as)?|"
    "as_strided|(_)?reshape(_alias)?|transpose|t|mT|permute|movedim|swapaxes|expand(_as)?|select|slice|narrow|(un)?squeeze|"
    "detach_?|alias|lift_fresh|split(_with_sizes)?|chunk|unbind|(un)?flatten|broadcast_tensors|to|_to_copy|contiguous"
)
# Operators that are one kernel, whatever a CPU makes of them.
ONE = re.compile(
    "(add)?mm|(badd)?bmm|native_layer_norm(_backward)?|_scaled_dot_product_.*|cat|index|sort|topk|index_put_impl_"
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--prototypes", type=int, default=1024)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--depth", type=int, default=None, help="blocks, where the architecture's own take too long")
    args = parser.parse_args(argv)
    more = {} if args.depth is None else {"student.depth": args.depth}
    base = Recipe(args.arch, args.batch, **TINY, prototypes=args.prototypes, drop_path=args.drop_path, more=more)
    figures: dict[str, Any] = {"benchmark": "launches", **vars(args)}
    torch._inductor.config.cpp.enable_kernel_profile = True  # its loops are events of the profiler then
    for name, fused in (("eager", "never"), ("compiled", "always")):
        recipe = replace(
            base, more=more | {"compute_precision.fused": fused, "compute_precision.unread_tokens": "compute"}
        )
        figures[name] = launches(recipe, compiled=fused == "always")
    print_row(figures)
    return 0


def launches(recipe: Recipe, *, compiled: bool) -> dict[str, Any]:
    """Of one forward and backward pass, after two that compile."""
    torch._dynamo.reset()
    found = torch._dynamo.utils.counters
    found.clear()
    step = SyntheticStep(recipe, torch.device("cpu"))
    cfg = step.model.cfg
    for model in (step.model.student, step.model.model_ema):
        cast(Backbone, model["backbone"]).set_execution(execution_of(cfg, "cuda"))
    if compiled:
        for module in (*step.model.student.values(), *step.model.model_ema.values()):
            compile_module(module, in_blocks=False)
    for number in range(2):
        passes(step, number)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        passes(step, 2)
    started = Counter(event.name for event in profiler.events() if starts_a_kernel(event))
    return {
        "launches": started.total(),
        "graphs": found["stats"]["unique_graphs"],
        "graph_breaks": dict(found["graph_break"]),
        "most": dict(started.most_common(10)),
    }


def passes(step: SyntheticStep, number: int) -> None:
    step.optimizer.zero_grad(set_to_none=True)  # as a step begins
    batch = step.batches[number % len(step.batches)]
    step.model.forward_backward(batch, teacher_temp=step.schedules.at(number).teacher_temp, iteration=number)


def starts_a_kernel(event: Any) -> bool:
    """Whether an event of the profiler stands for a kernel: one operator, or what computes and is made of nothing that does."""
    if "cpp_fused" in event.name:
        return True
    above = event.cpu_parent
    while above is not None:
        if "cpp_fused" in above.name or ONE.fullmatch(_operator(above)):
            return False
        above = above.cpu_parent
    return ONE.fullmatch(_operator(event)) is not None or (_computes(event) and not _contains(event))


def _operator(event: Any) -> str:
    name: str = event.name
    return name.removeprefix("aten::") if name.startswith("aten::") else ""


def _computes(event: Any) -> bool:
    return bool(_operator(event)) and not NOTHING.fullmatch(_operator(event))


def _contains(event: Any) -> bool:
    return any(_computes(child) or _contains(child) for child in event.cpu_children)


if __name__ == "__main__":
    sys.exit(main())
