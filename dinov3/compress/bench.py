"""How fast a backbone is, what memory it takes and how close it stays, in every number format, size and batch; measured here."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Closeness
from dinov3.compress.quantize import quantized
from dinov3.compress.written import KINDS
from dinov3.models.backbone import Backbone
from dinov3.models.int4 import problem_with, to_int4
from dinov3.system.errors import first_line
from dinov3.system.memory import UNKNOWN, PeakMemory, available_memory
from dinov3.weights.parity import tokens_of

PRECISIONS = {
    "fp32": "numbers of 32 bits",
    "bf16": "autocast: matrix products in bfloat16",
    "int8": "linear layers of the blocks in 8 bits",
    "int8-dynamic": "and activations rounded to 8 bits, token by token",
    "int4": "linear layers in 4 bits, groups of 128 (torchao, CUDA)",
}
WARM_UP, LEAST_CALLS, MOST_CALLS, SECONDS = 2, 5, 50, 2.0
COMPARED = 8  # images whose tokens are compared
LARGEST = 2**16  # images at once that are tried


@dataclass(frozen=True)
class Case:
    """One way to run a backbone."""

    precision: str
    compiled: bool
    size: int  # px a side
    batch: int


@dataclass(frozen=True)
class Row:
    """What one case measured. ``problem``: why it could not be, in place of the figures."""

    case: Case
    milliseconds: float | None = None  # median of a call on a batch that is on the device
    images_per_second: float | None = None
    memory: int | None = None  # bytes beside the weights, at most
    weights: int | None = None  # bytes of parameters and buffers
    mean_cosine: float | None = None  # of tokens with those in fp32
    least_cosine: float | None = None
    problem: str = ""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self.case), **{name: value for name, value in asdict(self).items() if name != "case"}}


class Bench:
    """A backbone on ``device`` in one number format after another."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.backbone, self.device = backbone.eval(), device
        self.whole = copy.deepcopy(backbone).to(device)
        self._models: dict[tuple[str, bool], nn.Module] = {}

    def rows(self, cases: Sequence[Case], images: Tensor) -> Iterator[Row]:
        """A row a case of one size and batch, timed in turns: what else the machine does slows all alike. ``images``: at least
        one ``[N, C, H, W]``, repeated to a batch."""
        assert len({(case.size, case.batch) for case in cases}) == 1
        batch = images.repeat(-(-cases[0].batch // len(images)), 1, 1, 1)[: cases[0].batch].to(self.device)
        figures: dict[Case, Row] = {}
        for case in cases:
            try:
                figures[case] = self._tried(case, batch)
            except (CompressError, RuntimeError) as error:
                yield Row(case, problem=_reason(error))
            self._forget()
        times: dict[Case, list[float]] = {case: [] for case in figures}
        began, rounds = time.perf_counter(), 0
        while rounds < LEAST_CALLS or (rounds < MOST_CALLS and time.perf_counter() - began < SECONDS * len(figures)):
            for case, seconds in times.items():
                start = time.perf_counter()
                self._call(case, batch)
                seconds.append(time.perf_counter() - start)
            rounds += 1
        for case, row in figures.items():
            middle = statistics.median(times[case])
            yield replace(row, milliseconds=1e3 * middle, images_per_second=case.batch / middle)

    def largest_batch(self, precision: str, image: Tensor) -> tuple[int | None, str]:
        """(images of this size at once that fit, how that is known) in inference, not compiled; None: it is not known."""
        case = Case(precision, False, image.shape[-1], 1)
        try:
            self._model(precision, False)
        except CompressError as error:
            return None, str(error)
        if self.device.type != "cuda":
            return self._largest_by_growth(case, image)
        most, fails = 0, LARGEST + 1
        batch = 1
        while batch < fails and batch <= LARGEST:
            if self._fits(case, image, batch):
                most = batch
            else:
                fails = batch
            batch = batch * 2 if fails > LARGEST else (most + fails) // 2
            if fails - most <= max(1, most // 16):
                break
        return most or None, "tried"

    # ------------------------------------------------------------------ one case

    def _model(self, precision: str, compiled: bool) -> nn.Module:
        if (known := self._models.get((precision, compiled))) is not None:
            return known
        model: nn.Module = self.whole
        if (kind := KINDS.get(precision)) is not None:
            model = quantized(self.backbone, kind).to(self.device)
        elif precision == "int4":
            if (problem := problem_with(self.device)) is not None:
                raise CompressError(problem)
            model = copy.deepcopy(self.whole).to(torch.bfloat16)
            to_int4(model)
        if compiled:
            model = torch.compile(model)  # type: ignore[assignment]
        self._models[precision, compiled] = model
        return model

    @torch.no_grad()
    def _tried(self, case: Case, batch: Tensor) -> Row:
        """Everything but time."""
        for _ in range(WARM_UP):
            self._call(case, batch)
        with self._peak() as peak:
            self._call(case, batch)
        few = batch[:COMPARED]
        whole = Case("fp32", False, case.size, case.batch)
        close = Closeness.of([self._call(case, few).float().cpu()], [self._call(whole, few).float().cpu()])
        tensors = self._model(case.precision, case.compiled).state_dict().values()
        weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return Row(case, memory=peak.grown, weights=weights, mean_cosine=close.mean, least_cosine=close.least)

    @torch.no_grad()
    def _call(self, case: Case, images: Tensor) -> Tensor:
        half = case.precision in ("bf16", "int4")
        mixed = torch.autocast(self.device.type, dtype=torch.bfloat16) if half else nullcontext()
        with mixed:
            found = tokens_of(self._model(case.precision, case.compiled), images)  # type: ignore[arg-type]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return found

    def _peak(self) -> AbstractContextManager[Any]:
        return _OnDevice(self.device) if self.device.type == "cuda" else PeakMemory()

    def _forget(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------ the largest batch

    def _fits(self, case: Case, image: Tensor, batch: int) -> bool:
        try:
            self._call(case, image[:1].to(self.device).repeat(batch, 1, 1, 1))
        except torch.OutOfMemoryError:
            return False
        finally:
            self._forget()
        return True

    def _largest_by_growth(self, case: Case, image: Tensor) -> tuple[int | None, str]:
        """From what two batches take: a CPU has no limit of its own to run into but the machine's, which kills."""
        grown = []
        for batch in (8, 32):
            images = image[:1].repeat(batch, 1, 1, 1)
            self._call(case, images[:1])
            with PeakMemory() as peak:
                self._call(case, images)
            grown.append(peak.grown)
        free = available_memory()
        if grown[0] is None or grown[1] is None or free == UNKNOWN or grown[1] <= grown[0]:
            return None, "the system does not tell what memory a batch takes"
        each = (grown[1] - grown[0]) / 24 + image[:1].numel() * image.element_size()
        return int(free / each), f"by {each / 1e6:.1f} MB an image and {free / 1e9:.1f} GB that are free"


class _OnDevice:
    """As ``PeakMemory``, of a CUDA device's tensors."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.grown = device, 0

    def __enter__(self) -> _OnDevice:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        torch.cuda.synchronize(self.device)
        self.grown = torch.cuda.max_memory_allocated(self.device) - self._before


def _reason(error: Exception) -> str:
    return "not enough memory" if isinstance(error, torch.OutOfMemoryError) else first_line(error)
