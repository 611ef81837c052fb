"""The ONNX graph of a backbone in 8 bits for onnxruntime, ranges from calibration images."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.errors import CompressError
from dinov3.compress.measure import Run
from dinov3.compress.moments import Batches
from dinov3.models.backbone import Backbone
from dinov3.weights.formats import require


def write_int8_onnx(graph: Path, out: Path, batches: Batches) -> int:
    """Quantise the float ``graph`` to ``out``: weights by channel, activations by their range on ``batches``.

    Only products with constant matrices are in 8 bits; attention itself, norms and the patch embedding stay float32.
    Returns how many products are. CompressError when there is none: nothing is passed off as 8 bits that is not.
    """
    require("onnxruntime")
    onnx, ort = require("onnx"), import_module("onnxruntime.quantization")
    prepared = out.with_name(f"prepared-{out.name}")
    with _quiet():
        ort.shape_inference.quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        chosen = constant_products(model)
        if not chosen:
            raise CompressError(f"{graph.name}: no product with a constant matrix was found, nothing can be in 8 bits")
        ort.quantize_static(
            str(prepared),
            str(out),
            _Reader(batches),
            quant_format=ort.QuantFormat.QDQ,
            nodes_to_quantize=chosen,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=ort.QuantType.QInt8,
            activation_type=ort.QuantType.QUInt8,
            calibrate_method=ort.CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
    prepared.unlink()
    found = onnx.load(str(out))
    integers = sum(i.data_type == onnx.TensorProto.INT8 for i in found.graph.initializer if len(i.dims) == 2)
    if integers < len(chosen):
        raise CompressError(
            f"{out.name}: onnxruntime left {len(chosen) - integers} of {len(chosen)} matrices in float32"
        )
    return integers


def constant_products(model: Any) -> list[str]:
    """Names of the products with a matrix of the model, behind the first, which embeds the patches."""
    constants = {initializer.name for initializer in model.graph.initializer if len(initializer.dims) == 2}
    products = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and set(n.input) & constants]
    return products[1:]


class _Reader:
    """Calibration images one after the other, as onnxruntime asks for them."""

    def __init__(self, batches: Batches) -> None:
        self._images: Iterator[Tensor] = (image[None] for batch in batches for image in batch)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image.numpy()}


def onnx_run(path: Path, backbone: Backbone, *, threads: int | None = None) -> Run:
    """Tokens of an ONNX file as ``tokens_of`` gives them, on the CPU with as many ``threads`` as torch has."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = ["cls", "storage", "patches"] if backbone.n_storage_tokens else ["cls", "patches"]

    def run(images: Tensor) -> Tensor:
        parts = [torch.from_numpy(part) for part in session.run(names, {"images": images.numpy()})]
        return torch.cat([parts[0][:, None], *parts[1:]], dim=1)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice about its own preparation."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
