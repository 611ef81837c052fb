"""One compressed file: made, read back, measured as it lies there, with its report beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch

from dinov3.compress.costs import Costs
from dinov3.compress.energy import Cut
from dinov3.compress.labelled import Judge, Pictures, Rows
from dinov3.compress.measure import (
    Closeness,
    Latency,
    Run,
    closeness,
    closeness_of_output,
    file_bytes,
    latencies,
    operations,
)
from dinov3.compress.methods import Settings, compress
from dinov3.compress.moments import Batches, token_count
from dinov3.compress.options import steps_of
from dinov3.compress.report import FORMAT, draw
from dinov3.compress.variants import Variant
from dinov3.compress.written import KINDS, Written, write
from dinov3.features.preprocess import Preprocess
from dinov3.models.backbone import Backbone
from dinov3.models.build import backbone_lines, describe_backbone
from dinov3.models.int8 import weights_in
from dinov3.system.files import flush
from dinov3.system.work_folder import work_folder
from dinov3.weights.model_card import provenance_of
from dinov3.weights.parity import images_for, tokens_of
from dinov3.weights.provenance import Facts

LOOKED_AT = 8  # batches whose tokens are compared


@dataclass(frozen=True)
class Bench:
    """What all variants of one backbone have in common. ``sets``: prepared images by the option that gave them."""

    weights: Path
    whole: Backbone
    preprocess: Preprocess
    size: int
    batch: int
    multiple: int
    refit: bool
    sets: dict[str, Pictures]
    judge: Judge | None
    notes: list[str]

    @property
    def calibration(self) -> Batches:
        return self.sets["calibrate"].batches(self.batch) if "calibrate" in self.sets else []

    @cached_property
    def looked_at(self) -> tuple[str, list[torch.Tensor]]:
        """Where the images come from whose tokens are compared, and they."""
        for name in ("test", "calibrate"):
            if name in self.sets:
                return f"--{name}", self.sets[name].batches(self.batch)[:LOOKED_AT]
        return "fixed pictures", images_for(self.whole)

    @cached_property
    def reference(self) -> Run:
        return partial(tokens_of, self.whole)

    @cached_property
    def scores_before(self) -> Rows | None:
        return None if self.judge is None else self.judge.scores(self.reference)


def make(variant: Variant, bench: Bench, others: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Write the file with its report: JSON and, unless ``others`` is None, a picture that shows them too.

    Returns the report. Raises CompressError.
    """
    whole, batches, out = bench.whole, bench.calibration, variant.out
    replaces = out.exists()
    tokens = token_count(whole, torch.empty(1, 1, bench.size, bench.size))
    stored = "bf16" if variant.number_format == "bf16" else "none"
    costs = Costs(variant.of, tokens, bench.size, KINDS.get(variant.number_format, stored))
    settings = Settings(costs, bench.multiple, bench.refit)
    steps = steps_of(whole, variant.methods, variant.amount, variant.budget, settings)
    small, cuts = compress(whole, steps, settings, batches)
    told = provenance_of(bench.weights, cast(Any, whole).described, [f"compressed: {variant.name}"])
    with work_folder(out) as folder:
        place = folder / out.name
        written = write(small, variant.number_format, place, Facts(_described(bench), told), batches)
        report = _report(variant, bench, small, written, place)
        report["notes"] += [f"{out.name} was there already: replaced"] * replaces
        report |= {"steps": [step.__dict__ for step in steps], "cuts": [cut.row() for cut in _told(cuts)]}
        beside = folder / out.with_suffix(".report.json").name
        beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if others is not None:
            draw([report, *others], beside.with_suffix(".png"))
        for path in sorted(folder.iterdir(), key=lambda p: p.name == out.name):  # the weights last
            flush(path)
            os.replace(path, out.parent / path.name)
    return report


def _described(bench: Bench) -> dict[str, Any]:
    """How the compressed model is fed: as the uncompressed one."""
    kept: dict[str, Any] = dict(getattr(bench.whole, "preprocess", {}))
    return kept | {"mean": list(bench.preprocess.mean), "std": list(bench.preprocess.std)}


def _report(variant: Variant, bench: Bench, small: Backbone, written: Written, place: Path) -> dict[str, Any]:
    whole, (source, batches) = bench.whole, bench.looked_at
    also = [written.float_onnx] if written.float_onnx is not None else []
    before, after, *others = latencies([bench.reference, written.run, *also], batches[0])
    rows = _cosines(whole, written, batches)
    sides: dict[str, dict[str, Any]] = {
        "before": _side(weights_in(whole), operations(whole, bench.size), _float_bytes(whole), before),
        "after": _side(written.weights, operations(small, bench.size), file_bytes(place), after),
    }
    if bench.judge is not None:
        sides["before"]["metrics"], sides["after"]["metrics"] = bench.scores_before, bench.judge.scores(written.run)
    notes = [*written.notes, *bench.notes, *(f"onnxruntime, float32: {other}; in 8 bits: {after}" for other in others)]
    return {
        "format": FORMAT,
        "weights": str(bench.weights),
        "out": str(variant.out),
        "method": variant.name,
        "quantize": variant.number_format,
        "size": bench.size,
        "batch": len(batches[0]),
        "threads": after.threads,
        **({} if bench.judge is None else {"metrics_of": bench.judge.name}),
        **sides,
        "cosines": rows,
        "cosines_on": source,
        "shape": backbone_lines(written.blocks or small, bench.size),
        "architecture": describe_backbone(written.blocks or small),
        "notes": notes,
    }


def _side(weights: int, flops: int, size: int, timed: Latency) -> dict[str, Any]:
    return {"weights": weights, "flops": flops, "bytes": size, "milliseconds": timed.milliseconds, "calls": timed.calls}


def _float_bytes(whole: Backbone) -> int:
    """Of the uncompressed weights as a float32 file, without its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in whole.state_dict().values())


def _cosines(whole: Backbone, written: Written, batches: list[torch.Tensor]) -> list[dict[str, Any]]:
    found: list[tuple[str, Closeness]] = []
    if written.blocks is not None:
        layers = closeness(written.blocks, whole, batches)[:-1]
        found = [(f"block {index}", row) for index, row in enumerate(layers)]
    found.append(("output", closeness_of_output(written.run, whole, batches)))
    return [{"where": where, "mean": row.mean, "least": row.least} for where, row in found]


def _told(cuts: list[Cut]) -> list[Cut]:
    """Without those that changed nothing."""
    return [cut for cut in cuts if cut.after < cut.before and cut.replaced]
