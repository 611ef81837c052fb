"""What is counted without values is what is counted with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dinov3.config.schema import Config
from dinov3.engine.precision import DTYPES
from dinov3.models.flops import forward_flops
from dinov3.plan.counting import ON_CPU, Counting, Sent, on_the_wire
from dinov3.plan.depth import cost_of_step
from dinov3.plan.step import StepCost, count_step, run_step
from dinov3.train.flops import flops_an_image
from tests.distributed.processes import Phase, run_phases
from tests.plan.real import real_step
from tests.train.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]
# In HYBRID_SHARD four processes are two machines of two.
TWO = ["NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD"]


def config(strategy: str = "auto", **changes: object) -> Config:
    return tiny_config(
        compute_precision__sharding_strategy=strategy,
        train__log_every=100,
        dino__koleo_loss_distributed=True,
        **changes,
    )


def per_machine_of(strategy: str, processes: int) -> int:
    return processes // 2 if strategy == "HYBRID_SHARD" else processes


def planned(strategy: str, processes: int, **changes: object) -> StepCost:
    per_machine = per_machine_of(strategy, processes)
    return count_step(config(strategy, **changes), dtype=torch.float32, processes=processes, per_machine=per_machine)


def count_in_a_real_group(folder: Path, *, strategy: str, processes: int, changes: dict[str, object]) -> None:
    made, counting = real_step(config(strategy, **changes)), Counting()
    with counting:
        run_step(made)
    if torch.distributed.get_rank() == 0:
        rows = sorted([*sent, count] for sent, count in counting.count.sent.items())
        (folder / name_of(strategy, processes, changes)).write_text(json.dumps(rows))


def name_of(strategy: str, processes: int, changes: dict[str, object]) -> str:
    return f"{strategy}-{processes}-{len(changes)}.json"


def compare(cases: list[tuple[str, int, dict[str, object]]], folder: Path) -> None:
    phases = [
        Phase(
            partial(count_in_a_real_group, strategy=strategy, processes=n, changes=changes),
            n,
            per_machine_of(strategy, n),
        )
        for strategy, n, changes in cases
    ]
    run_phases(phases, folder)
    for strategy, n, changes in cases:
        expected = json.loads((folder / name_of(strategy, n, changes)).read_text())
        sent = planned(strategy, n, **changes).sent
        assert sorted([*kind, count] for kind, count in sent.items()) == expected, (strategy, n, changes)
        assert sent


def test_collectives_of_two_processes_are_exactly_those_of_a_real_group(tmp_path: Path) -> None:
    compare([(strategy, 2, {}) for strategy in ("NO_SHARD", "FULL_SHARD")], tmp_path)


@pytest.mark.nightly
def test_collectives_of_two_and_four_processes_are_exactly_those_of_a_real_group(tmp_path: Path) -> None:
    cases: list[tuple[str, int, dict[str, object]]] = [(strategy, n, {}) for n in (2, 4) for strategy in TWO]
    cases += [("HYBRID_SHARD", 4, {})]
    more: dict[str, object] = {"train__gradient_accumulation_steps": 2, "train__checkpointing_full": True}
    compare([*cases, ("FULL_SHARD", 4, more), ("NO_SHARD", 2, more)], tmp_path)


def test_a_ring_sends_a_sum_twice_and_a_gather_once() -> None:
    assert on_the_wire(Sent("allreduce_", 800, 4)) == 1200
    assert on_the_wire(Sent("_allgather_base_", 800, 4)) == 600
    assert on_the_wire(Sent("_reduce_scatter_base_", 800, 1)) == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_operations_are_those_torch_counts_in_a_step_with_values(dtype: str) -> None:
    cfg = config(train__device="cpu", compute_precision__cpu_dtype=dtype)
    made = real_step(cfg)
    mapping = {op: _with_out(formula) for op, formula in ON_CPU.items()}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run_step(made)
    assert count_step(cfg, dtype=DTYPES[dtype]).flops == counter.get_total_flops() > 0


def _with_out(formula: object) -> object:
    def raw(*args: object, **kwargs: object) -> int:
        kwargs.pop("out_val", None)
        return int(formula(*args, **kwargs))  # type: ignore[operator]

    raw._get_raw = True  # type: ignore[attr-defined]
    return raw


def test_operations_an_image_follow_from_what_fvcore_counts_forward() -> None:
    """Teacher forward, student forward and twice backward; fvcore knows no heads, so they are subtracted by their matrices."""
    cfg = config(student__drop_path_rate=0.0)
    made = real_step(cfg)
    backbone, heads = made.model.student["backbone"], [made.model.student[n] for n in ("dino_head", "ibot_head")]
    large, small = forward_flops(backbone, 32), forward_flops(backbone, 16)
    cells, cls, masked = (32 // 8) ** 2, 2 + 2, 0.0
    masked = len(made.batches[0].mask_indices_list) / cfg.train.batch_size_per_gpu
    one = [2 * sum(p.numel() for p in head.parameters() if p.ndim == 2) for head in heads]
    teacher = 2 * large + 2 * one[0] + masked * one[1]
    student = 3 * (2 * large + 2 * small) + 3 * (cls * one[0] + masked * one[1])
    # images have no gradient: the patch embedding is multiplied twice, not three times
    embedding = 2 * 3 * 8 * 8 * 64 * (2 * cells + 2 * (16 // 8) ** 2)
    assert flops_an_image(cfg) == pytest.approx(teacher + student - embedding, rel=0.01)


def test_a_deep_model_is_extended_from_shallow_ones() -> None:
    cfg = config("FULL_SHARD", student__depth=6)
    settings = {"dtype": torch.float32, "processes": 4}
    whole, made = count_step(cfg, **settings), cost_of_step(cfg, **settings)  # type: ignore[arg-type]
    assert made.flops == whole.flops
    assert made.sent == whole.sent
    assert made.whole == whole.whole
    assert made.parameters == whole.parameters
    assert made.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.02)


MEASURE = """
import resource, sys, torch
from pathlib import Path
from tests.plan.real import real_step
from tests.plan.test_step import large
from dinov3.plan.step import run_step
from benchmarks.measure import PeakMemory
torch.set_num_threads(1)
cfg = large(sys.argv[1])
run_step(real_step(large("small")))  # what the program itself takes, and its caches
memory = PeakMemory(torch.device("cpu"))
before = memory._resident()
made = real_step(cfg)
run_step(made)
print(memory.close() - before)
"""
WIDE: dict[str, object] = {
    "student__embed_dim": 384,
    "student__num_heads": 6,
    "student__depth": 4,
    "train__batch_size_per_gpu": 16,
}
LARGE: dict[str, dict[str, object]] = {
    "small": {"train__batch_size_per_gpu": 2},
    "wide": WIDE,
    "bf16": WIDE | {"compute_precision__cpu_dtype": "bf16", "train__device": "cpu"},
    "heads": {"dino__head_n_prototypes": 32768, "ibot__head_n_prototypes": 32768, "train__batch_size_per_gpu": 16},
}


def large(name: str) -> Config:
    sizes = {"crops__global_crops_size": 112, "crops__local_crops_size": 48}
    return config(**(sizes | LARGE[name]))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["wide", "heads", "bf16"])
def test_the_peak_is_within_a_tenth_of_what_a_step_took_on_a_cpu(name: str) -> None:
    # what is freed goes back to the system, else holes between blocks count, a quarter more in a short process
    returning = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name],
        cwd=ROOT,
        env=returning,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    measured = float(done.stdout) * 2**30
    estimate = count_step(large(name), dtype=DTYPES["bf16" if name == "bf16" else "fp32"]).peak_bytes
    assert estimate == pytest.approx(measured, rel=0.10), (estimate / 2**30, measured / 2**30)
