"""A finished head with its backbone as one ONNX graph, compared with torch before it appears."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.finetune.errors import FinetuneError
from dinov3.models.backbone import Backbone
from dinov3.runs.output import check_output_file
from dinov3.system.errors import first_line
from dinov3.system.files import flush
from dinov3.system.work_folder import work_folder
from dinov3.weights.export import FORMATS, as_computed_there
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.onnx_graph import save_graph

TOLERANCE = (
    1e-4  # of the largest number of an output: float32 in another order, through a few more layers than a backbone
)
BATCHES = (1, 3)
METADATA = "dinov3"  # key of what the file says of itself


@dataclass(frozen=True)
class Graph:
    """What is written. ``model``: images ``[N, C, H, W]``, normalised, of ``size`` to a tuple of outputs."""

    model: nn.Module
    channels: int
    size: tuple[int, int]  # (height, width) px
    outputs: Mapping[str, str]  # name -> what it is, with its shape
    about: Mapping[str, Any]  # goes into the file: classes, mean, std, …
    notes: Sequence[str] = ()


class Outputs(nn.Module):
    """A head in front of whatever makes plain tensors of what it says; for subclasses that override ``forward``."""

    def __init__(self, tuned: nn.Module) -> None:
        super().__init__()
        self.tuned = tuned


def headed_graph(
    outputs: type[Outputs],
    tuned: nn.Module,
    about: Any,
    size: tuple[int, int],
    meanings: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Graph:
    """Of a model with a ``backbone``; ``outputs`` makes plain tensors of what it says, ``about``: a dataclass for the file."""
    backbone = cast(Backbone, tuned.backbone)
    told = {**asdict(about), **feeding(backbone)}
    changed = in_float32(tuned)
    return Graph(outputs(tuned), backbone.in_chans, size, meanings, told, [*changed, *notes])


def in_float32(tuned: nn.Module) -> list[str]:
    """Give ``tuned.backbone`` the float32 rotary tables that a graph computes; what that changes, in words."""
    backbone, notes = as_computed_there(cast(Backbone, tuned.backbone), FORMATS["onnx"])
    tuned.backbone = backbone
    return notes


def feeding(backbone: Backbone) -> dict[str, Any]:
    """Mean and standard deviation of the channels, for the file."""
    statistics = cast(Any, backbone).preprocess
    return {"mean": list(statistics["mean"]), "std": list(statistics["std"])}


def export(graph: Graph, out: Path) -> list[str]:
    """Write ``out`` (and ``OUT.data`` beside it above 2 GB) whole or not at all; what there is to say.

    Raises FinetuneError when onnxruntime does not give torch's numbers, WeightsError without its packages.
    """
    if out.suffix != ".onnx" or out.is_dir():
        raise FinetuneError(f"--out {out}: give a file name that ends in .onnx")
    check_output_file(out, "--out")
    with work_folder(out) as folder:
        worst = _write(graph, folder / out.name)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == out.name):  # the graph last
            flush(path)
            os.replace(path, out.parent / path.name)
    height, width = graph.size
    return [
        str(out),
        f"input   images [N, {graph.channels}, {height}, {width}] float32: colours in 0 .. 1, less the mean, by the deviation",
        *(f"output  {name} {meaning}" for name, meaning in graph.outputs.items()),
        f"equal to {worst:.1e} of the largest number (at most {TOLERANCE:g}), fp32 on the CPU",
        *graph.notes,
    ]


@torch.no_grad()
def _write(graph: Graph, out: Path) -> float:
    model, names = graph.model.eval().float().cpu(), list(graph.outputs)
    image = procedural_image(graph.channels, *graph.size)
    metadata = {METADATA: json.dumps({**graph.about, "outputs": dict(graph.outputs), "notes": [*graph.notes]})}
    try:
        run = save_graph(model, image.repeat(2, 1, 1, 1), names, {}, out, metadata)
    except RuntimeError as error:  # what torch's exporter raises
        raise FinetuneError(f"{out.name}: cannot be written: {first_line(error)[:200]}") from error
    worst = 0.0
    for n in BATCHES:
        images = torch.cat([image.roll(7 * i, dims=-1) for i in range(n)])
        for name, found, expected in zip(names, run(images), model(images), strict=True):
            distance = _distance(found, expected)
            if not distance <= TOLERANCE:
                raise FinetuneError(
                    f"{out.name}: onnxruntime's {name} of {n} images is off by {distance:.1e} (at most {TOLERANCE:g}): "
                    "nothing was written"
                )
            worst = max(worst, distance)
    return worst


def _distance(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
