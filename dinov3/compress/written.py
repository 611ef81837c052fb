"""A compressed model in a file, and what that file computes: measured is what was read back, never what was meant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Run
from dinov3.compress.moments import Batches
from dinov3.compress.onnx_int8 import onnx_run, write_int8_onnx
from dinov3.compress.quantize import quantized, rounded_to_bf16
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.models.int8 import weights_in
from dinov3.weights.description import as_metadata
from dinov3.weights.fingerprint import fingerprint
from dinov3.weights.onnx_graph import write_onnx
from dinov3.weights.own import description, load_backbone, without_aliases
from dinov3.weights.parity import tokens_of
from dinov3.weights.provenance import Facts
from dinov3.weights.tensor_file import write_tensor_file

NUMBER_FORMATS = {
    "none": "float32",
    "bf16": "bfloat16 in the file; read back as float32, measured under bfloat16 autocast",
    "int8": "linear layers of the blocks in 8 bits, activations float32",
    "int8-dynamic": "linear layers of the blocks in 8 bits, activations rounded to 8 bits token by token",
    "onnx-int8": "products of the ONNX graph in 8 bits, ranges from the calibration images",
}
KINDS = {"int8": "weight_only", "int8-dynamic": "dynamic"}


@dataclass(frozen=True)
class Written:
    """``run`` computes with what is in the file; ``blocks`` is the backbone that was read back, if one was."""

    run: Run
    weights: int
    blocks: Backbone | None
    float_onnx: Run | None = None  # the same graph in float32, to be timed beside
    notes: tuple[str, ...] = ()


def check_format(number_format: str, out: Path, calibrated: bool) -> None:
    """CompressError where format and ending do not go together."""
    if out.suffix not in (".safetensors", ".onnx"):
        raise CompressError(f"--out {out}: give a name that ends in .safetensors or .onnx")
    if (number_format == "onnx-int8") and out.suffix != ".onnx":
        raise CompressError(f"--out {out}: --quantize onnx-int8 writes an .onnx file")
    if out.suffix == ".onnx" and number_format not in ("none", "onnx-int8"):
        raise CompressError(f"--quantize {number_format} writes a .safetensors file; for .onnx there is onnx-int8")
    if number_format == "onnx-int8" and not calibrated:
        raise CompressError("--quantize onnx-int8 needs --calibrate: activations get their ranges from images")


def write(small: Backbone, number_format: str, out: Path, facts: Facts, batches: Batches) -> Written:
    """Write ``small`` to ``out`` and read it back. Raises WeightsError when it does not come back as it was."""
    if out.suffix == ".onnx":
        return _write_onnx(small, number_format, out, facts, batches)
    if number_format in KINDS:
        final = quantized(small, KINDS[number_format])
    else:
        final = rounded_to_bf16(small) if number_format == "bf16" else small
    state = {key: value.detach().contiguous() for key, value in without_aliases(final).items()}
    if number_format == "bf16":
        parameters = dict(final.named_parameters())
        state = {key: value.bfloat16() if key in parameters else value for key, value in state.items()}
    described = description(final, facts) | {"fingerprint": fingerprint(final)}
    write_tensor_file(state, out, as_metadata(described))
    again = load_backbone(out)
    same = all(torch.equal(value, again.state_dict()[key]) for key, value in final.state_dict().items())
    if not same or describe_backbone(again) != describe_backbone(final):
        raise CompressError(f"{out.name}: does not come back as it was written; nothing was kept")
    run = partial(_under_autocast, again) if number_format == "bf16" else partial(tokens_of, again)
    return Written(run, weights_in(again), again, notes=(NUMBER_FORMATS[number_format],))


def _under_autocast(backbone: Backbone, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        return tokens_of(backbone, images).float()


def _write_onnx(small: Backbone, number_format: str, out: Path, facts: Facts, batches: Batches) -> Written:
    if number_format == "none":
        written = write_onnx(small, out, facts)
        return Written(onnx_run(out, small), weights_in(small), None, notes=(str(written.parity),))
    plain = out.with_name(f"float-{out.name}")
    written = write_onnx(small, plain, facts)
    count = write_int8_onnx(plain, out, batches)
    run, float_run = onnx_run(out, small), onnx_run(plain, small)
    plain.unlink()  # the session holds it in memory
    plain.with_name(plain.name + ".data").unlink(missing_ok=True)
    note = f"{NUMBER_FORMATS[number_format]}: {count} matrices; its float32 graph: {written.parity}"
    return Written(run, weights_in(small), None, float_run, (note,))
