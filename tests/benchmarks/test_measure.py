from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.measure import Compilations, Parts, PeakMemory, cost_of, idleness, plain_steps, print_row, profile_steps

CPU = torch.device("cpu")


class Recorder:
    """Stands in for CUDA: keeps the order of what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.clock = 0.0


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            recorder.calls.append("record")
            recorder.clock += 5.0
            self.at = recorder.clock

        def elapsed_time(self, other: Any) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: recorder.calls.append("wait"))
    return recorder


def test_timed_steps_on_a_gpu_are_followed_by_one_wait_behind_the_last(cuda: Recorder) -> None:
    def step(number: int) -> None:
        cuda.calls.append(f"step {number}")

    seconds = plain_steps(step, 4, 2, torch.device("cuda"))
    assert cuda.calls == ["wait", "record", "step 4", "record", "step 5", "record", "wait"]
    assert seconds == [0.005, 0.005]


def test_steps_on_a_cpu_are_timed_one_by_one() -> None:
    numbers: list[int] = []
    seconds = plain_steps(numbers.append, 7, 3, CPU)
    assert numbers == [7, 8, 9]
    assert len(seconds) == 3
    assert min(seconds) >= 0


def test_cost_counts_calls_after_those_that_warm_up() -> None:
    calls: list[int] = []
    cost = cost_of(lambda: calls.append(1), CPU, repeats=3, warmup=2)
    assert len(calls) == 5
    assert cost.ms >= cost.host_ms >= 0


def test_parts_are_measured_while_wrapped_and_the_owner_is_as_before_afterwards() -> None:
    class Model:
        def forward(self) -> int:
            return 3

    model, parts = Model(), Parts(CPU)
    parts.wrap(model, "forward", "forward pass")
    assert model.forward() == 3
    assert set(parts.seconds) == {"forward pass"}
    parts.unwrap()
    assert vars(model) == {}


def test_idle_time_is_what_no_kernel_covers_and_the_gap_behind_a_read_is_found() -> None:
    kernels = [
        (0.0, 10.0, "gemm"),
        (5.0, 12.0, "other stream"),
        (12.0, 14.0, "Memcpy DtoH (Device -> Pageable)"),
        (24.0, 34.0, "adamw"),
    ]
    found = idleness(kernels, 2)
    assert found["busy_ms"] == pytest.approx(24 / 2 / 1e3)
    assert found["idle_share"] == pytest.approx(10 / 34, abs=1e-4)
    assert found["gap_after_wait_ms"] == pytest.approx(0.010)
    assert found["reads_by_the_host"] == 0.5
    assert idleness([], 2)["idle_share"] is None


def test_a_profile_on_a_cpu_names_the_operations_of_the_steps() -> None:
    x = torch.ones(32, 32)
    found = profile_steps(lambda _: x @ x, 0, 2, CPU)
    assert {row["name"]: row["calls"] for row in found["top"]}["aten::mm"] == 1.0


def test_recompilations_and_the_limit_where_functions_run_eagerly_are_counted() -> None:
    compilations = Compilations()

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(double, backend="eager", dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2):  # pytest's monkeypatch would leave the key unset
        for n in range(1, 5):
            compiled(torch.ones(n))
    found = compilations.figures()
    assert (found["compilations"], found["recompiles"], found["limit_hits"]) == (3, 2, 1)
    compilations.restart()
    assert compilations.figures()["limit_hits"] == 0
    assert compilations.figures()["compilations"] == 0
    compilations.close()


def test_peak_memory_is_that_since_it_was_restarted() -> None:
    memory = PeakMemory(CPU)
    memory.restart()
    assert memory.peak() < 1e-9 or memory.peak() > 0.01
    assert memory.close() >= 0


def test_a_row_is_one_write_so_that_those_of_several_processes_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    print_row({"a": 1})
    assert written == ['{"a": 1}\n']
