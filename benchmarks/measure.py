"""Time, memory, kernels and compilations of training steps, measured so that a GPU is not made to wait.

On a GPU a step that is timed is never followed by a wait: events are recorded between the steps and read after the
last. What needs waits (the shares of the parts) is measured on other steps.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.reference import GIB
from dinov3.system.memory import resident

Step = Callable[[int], object]  # runs the step of that number
TOP = 60  # kernels a profile lists
WAITS = ("Memcpy DtoH",)  # a result read by the host is such a copy
KINDS = {  # of kernels, by what their names contain; the first that fits
    "attention": ("sdpa", "fmha", "flash", "attention", "compute_dot_do_o", "convert_dq"),
    "matrix products": ("nvjet", "gemm", "cutlass", "cublas", "splitK"),
    "fused by the compiler": ("triton_",),
    "copies": ("Memcpy", "Memset"),
    "optimizer and other lists": ("multi_tensor",),
}
ANNOTATIONS = ("Optimizer.", "ProfilerStep", "Torch-Compiled", "## Call", "nccl:")


def wait_for(device: torch.device) -> None:
    """Return when ``device`` has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_steps(step: Step, first: int, count: int, device: torch.device) -> list[float]:
    """Seconds of each of ``count`` steps from number ``first`` on, with no wait but one behind the last."""
    if device.type != "cuda":
        clock = [time.perf_counter()]
        for number in range(first, first + count):
            step(number)
            clock.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(clock)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    wait_for(device)
    events[0].record()
    for number in range(first, first + count):
        step(number)
        events[number - first + 1].record()
    wait_for(device)
    return [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one call: until the device is done, and until the host was free again."""

    ms: float
    host_ms: float

    def row(self) -> dict[str, float]:
        return {"ms": round(self.ms, 4), "host_ms": round(self.host_ms, 4)}


def cost_of(work: Callable[[], object], device: torch.device, *, repeats: int, warmup: int = 2) -> Cost:
    """Mean cost of ``work`` over ``repeats`` calls in a row."""
    for _ in range(warmup):
        work()
    wait_for(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    host = time.perf_counter() - started
    wait_for(device)
    return Cost((time.perf_counter() - started) / repeats * 1e3, host / repeats * 1e3)


class Parts:
    """Seconds spent in named parts of a step, by wrapping the functions that do them. Each part ends with a wait."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._wrapped: list[tuple[Any, str]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        wait_for(self._device)
        start = time.perf_counter()
        yield
        wait_for(self._device)
        self.seconds[name] += time.perf_counter() - start

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)
        self._wrapped.append((owner, attribute))

    def unwrap(self) -> None:
        """The owners as they were."""
        for owner, attribute in self._wrapped:
            delattr(owner, attribute)
        self._wrapped.clear()


class PeakMemory:
    """GiB: on a GPU what tensors held at most since ``restart``, else the largest resident set, sampled."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._peak, self._stop = device, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if device.type != "cuda":
            self._thread.start()

    def restart(self) -> None:
        """Forget the peak so far: warm-up and compilation need more than a step does."""
        self._peak = 0.0
        if self.device.type == "cuda":
            wait_for(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, self._resident())

    @staticmethod
    def _resident() -> float:
        return resident() / GIB if sys.platform == "linux" else 0.0

    def peak(self) -> float:
        """GiB at most, up to now."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else self._peak

    def close(self) -> float:
        """End sampling; the peak."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return self.peak()


def profile_steps(step: Step, first: int, count: int, device: torch.device) -> dict[str, Any]:
    """The most expensive kernels (on a CPU: operations) of ``count`` steps, and how long a GPU stood idle."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if device.type == "cuda" else activity.CPU]) as profiler:
        for number in range(first, first + count):
            step(number)
        wait_for(device)
    on_gpu = device.type == "cuda"
    spent: dict[str, list[float]] = defaultdict(list)
    intervals = []
    for event in profiler.events():
        if on_gpu and (event.device_type != torch.autograd.DeviceType.CUDA or is_annotation(event)):
            continue
        duration = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        spent[event.name].append(duration / 1e3)
        intervals.append((event.time_range.start, event.time_range.end, event.name))
    ranked = sorted(spent, key=lambda name: -sum(spent[name]))[:TOP]
    top = [
        {"name": name[:120], "ms": round(sum(spent[name]) / count, 3), "calls": round(len(spent[name]) / count, 1)}
        for name in ranked
    ]
    kinds: dict[str, float] = defaultdict(float)
    for name, times in spent.items():
        kinds[kind_of(name)] += sum(times) / count
    figures: dict[str, Any] = {"top": top, "launches": round(len(intervals) / count, 1)}
    figures["kinds"] = {kind: round(ms, 2) for kind, ms in sorted(kinds.items(), key=lambda pair: -pair[1])}
    return figures | (idleness(intervals, count) if on_gpu else {})


def kind_of(kernel: str) -> str:
    """What a kernel of this name does."""
    found = (kind for kind, parts in KINDS.items() if any(part.lower() in kernel.lower() for part in parts))
    return next(found, "other")


def is_annotation(event: Any) -> bool:
    """Whether an event on the GPU's time line is the name of a span of kernels, not a kernel."""
    return getattr(event, "is_user_annotation", False) or event.name.startswith(ANNOTATIONS)


def idleness(intervals: list[tuple[float, float, str]], steps: int) -> dict[str, float | None]:
    """Of kernels as (start, end, name) in microseconds: busy and idle time a step, and the gap after a read by the host."""
    if not intervals:
        return {"busy_ms": None, "idle_share": None, "gap_after_wait_ms": None}
    intervals = sorted(intervals)
    busy, reached, gaps = 0.0, intervals[0][0], []
    for index, (start, end, name) in enumerate(intervals):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        if name.startswith(WAITS) and index + 1 < len(intervals):
            gaps.append(max(0.0, intervals[index + 1][0] - end))
    span = reached - intervals[0][0]
    return {
        "busy_ms": round(busy / steps / 1e3, 3),
        "idle_share": round(1 - busy / span, 4) if span else 0.0,
        "gap_after_wait_ms": round(statistics.median(gaps) / 1e3, 3) if gaps else None,
        "reads_by_the_host": round(len(gaps) / steps, 1),
    }


class LimitHits(logging.Handler):
    """Counts dynamo's warning that a function is compiled no more and runs eagerly from now on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if "limit" in record.getMessage().partition("\n")[0]:
            self.count += 1


class Compilations:
    """What torch.compile did since this object was made, or since ``restart``."""

    LOGGER = "torch._dynamo.convert_frame"

    def __init__(self) -> None:
        self._hits = LimitHits()
        logging.getLogger(self.LOGGER).addHandler(self._hits)
        self.restart()

    def restart(self) -> None:
        self._hits.count = 0
        with contextlib.suppress(ImportError, AttributeError):
            self._record().clear_compilation_metrics()

    def close(self) -> None:
        logging.getLogger(self.LOGGER).removeHandler(self._hits)

    @staticmethod
    def _record() -> Any:
        from torch._dynamo import utils  # torch's own record of compilations; private, so asked for in one place

        return utils

    def figures(self) -> dict[str, Any]:
        """Compilations, recompilations, limit hits and seconds. ``recompile_reasons``: the first line of each."""
        try:
            done = list(self._record().get_compilation_metrics())  # the last 64
        except (ImportError, AttributeError) as error:  # another torch keeps another record
            return {"limit_hits": self._hits.count, "compilations": f"not known: {error}"}
        forward = [m for m in done if getattr(m, "is_forward", True) is not False]
        reasons = [str(r).partition("\n")[0][:200] for m in done if (r := getattr(m, "recompile_reason", None))]
        seconds = [(getattr(m, "duration_us", None) or 0) / 1e6 for m in done]
        return {
            "compilations": len(forward),
            "recompiles": len(reasons),
            "limit_hits": self._hits.count,
            "failed_compilations": sum(bool(getattr(m, "fail_type", None)) for m in done),
            "compile_seconds": round(sum(seconds), 1),
            "recompile_reasons": reasons[:12],
        }


def print_row(row: dict[str, Any]) -> None:
    """A JSON line, in one write: several processes have one standard output, and ``print`` may write the line's end apart."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
