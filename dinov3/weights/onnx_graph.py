"""A backbone as an ONNX graph of any batch and image size."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models.backbone import Backbone
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.formats import Written, require
from dinov3.weights.parity import compare
from dinov3.weights.provenance import Facts

LARGEST_BATCH, MOST_PATCHES = 1 << 16, 1 << 12  # bounds torch.export wants; the file knows no bounds


class _Graph(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.backbone(images, is_training=True)
        assert isinstance(out, Features)
        return (out.cls, out.storage, out.patches) if self.backbone.n_storage_tokens else (out.cls, out.patches)


def write_onnx(backbone: Backbone, out: Path, facts: Facts) -> Written:
    """``images [batch, C, rows * p, cols * p]`` to ``cls``, ``storage`` (when there are any) and ``patches``.

    Rotary tables are computed in the graph from the image's size, in float32: half a turn of the channels is a slice
    and a concatenation. Weights above 2 GB go into ``OUT.data`` beside it, as the format wants.
    """
    side = backbone.stride
    names = ["cls", "storage", "patches"] if backbone.n_storage_tokens else ["cls", "patches"]
    rows, cols = (torch.export.Dim(n, min=1, max=MOST_PATCHES) for n in ("rows", "cols"))
    example = procedural_image(backbone.in_chans, 4 * side, 3 * side).repeat(2, 1, 1, 1)
    run = save_graph(_Graph(backbone), example, names, {2: side * rows, 3: side * cols}, out)

    def tokens(images: Tensor) -> Tensor:
        parts = run(images)
        return torch.cat([parts[0][:, None], *parts[1:]], dim=1)

    parity = compare(backbone, tokens, "onnxruntime")
    how = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{out.name}")\n'
        f'{", ".join(names)} = session.run(None, {{"images": images}})  # [N, {backbone.in_chans}, H, W] float32; '
        f"H and W multiples of {side}"
    )
    return Written(parity, how)


Run = Callable[[Tensor], list[Tensor]]  # images -> every output, in the order of their names


def save_graph(
    module: nn.Module,
    example: Tensor,
    names: Sequence[str],
    sides: Mapping[int, Any],
    out: Path,
    metadata: Mapping[str, str] | None = None,
) -> Run:
    """Write ``module`` as the graph of ``images`` and of outputs called ``names``; what runs it by onnxruntime.

    The batch is free; of the other dimensions those in ``sides`` (as torch.export wants them), the rest as in ``example``
    [2, C, H, W]. Raises WeightsError when a package is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        runtime = require(package)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=list(names),
            dynamic_shapes=({0: batch, **sides},),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata or {})
        program.save(str(out))
    # the runtime takes only paths that are text; weights of more than 2 GB lie beside the graph and need the path
    beside = out.with_name(f"{out.name}.data").exists()
    session = runtime.InferenceSession(str(out) if beside else out.read_bytes(), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        found = session.run(list(names), {"images": images.numpy()})
        return [torch.from_numpy(one) for one in found]

    return run


@contextlib.contextmanager
def _quiet(*names: str) -> Any:
    loggers = [logging.getLogger(n) for n in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
