"""Read the encoder weights out of an official Depth Anything 3 file: strictly, and without executing anything in it.

The file is untrusted input: names and shapes are checked against the encoder before a tensor is read, pickles are
opened with ``weights_only=True``, and a weight that is not finite is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinov3.weights.torch_archive import DamagedArchive, check_archive

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20  # the official one has about 2 kB
MAX_HEADER_BYTES = 1 << 24  # the official header has about 100 kB; the library itself would parse 100 MB of JSON
SHOWN = 5  # keys of each kind named in an error

# config.json "model_name" -> {variant: where its encoder lies in the file}
MODEL_NAMES: dict[str, dict[str, str]] = {
    "da3-small": {"small": "model."},
    "da3-base": {"base": "model."},
    "da3-large": {"large": "model."},
    "da3-large-1.1": {"large": "model."},
    "da3-giant": {"giant": "model."},
    "da3-giant-1.1": {"giant": "model."},
    "da3mono-large": {"mono-large": "model."},
    "da3metric-large": {"metric-large": "model."},
    "da3nested-giant-large": {"giant": "model.da3.", "metric-large": "model.da3_metric."},
    "da3nested-giant-large-1.1": {"giant": "model.da3.", "metric-large": "model.da3_metric."},
}
ENCODER = "backbone."
OTHER_PARTS = ("head.", "cam_enc.", "cam_dec.", "gs_head.")  # depth head, camera encoder and decoder, Gaussian head

Shape = tuple[int, ...]


class Da3CheckpointError(ValueError):
    """The checkpoint cannot be used; the message is one line and names the file."""


class Da3CheckpointNotFoundError(Da3CheckpointError, FileNotFoundError):
    """There is no file where the checkpoint should be."""


@dataclass(frozen=True)
class LoadReport:
    """What was read. ``ignored``: tensors left in the file, by prefix."""

    path: Path
    tensors: int
    parameters: int
    ignored: dict[str, int]

    def __str__(self) -> str:
        rest = ", ".join(f"{count} of {prefix}*" for prefix, count in self.ignored.items()) or "none"
        return f"{self.path}: loaded all {self.tensors} encoder tensors ({self.parameters:,} weights); ignored: {rest}"


def read_da3_weights(path: Path, variant: str, expected: Mapping[str, Shape]) -> tuple[dict[str, Tensor], LoadReport]:
    """fp32 CPU tensors for exactly the keys of ``expected`` (encoder key -> shape), and a report.

    ``path``: a folder with ``config.json`` and ``model.safetensors``, a ``.safetensors`` file, or a ``.pth``/``.pt``
    file. A ``config.json`` beside the weights must name ``variant``. Raises Da3CheckpointError for anything missing,
    unexpected, misshapen, not finite or unreadable, Da3CheckpointNotFoundError for a missing file.
    """
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    config = weights.parent / CONFIG_FILE
    for needed in (weights, config) if path.is_dir() else (weights,):
        if not needed.is_file():
            raise Da3CheckpointNotFoundError(f"DA3 checkpoint file {needed} does not exist")
    if config.is_file():
        roots = {read_root(config, variant)}
    else:
        roots = {places[variant] for places in MODEL_NAMES.values() if variant in places}
    readers = {".safetensors": _open_safetensors, ".pth": _open_pickle, ".pt": _open_pickle}
    if weights.suffix not in readers:
        raise Da3CheckpointError(f"{weights}: unknown kind of file: use a folder, {', '.join(readers)}")
    with ExitStack() as stack:
        shapes, fetch = readers[weights.suffix](weights, stack)
        prefix, ignored = match_keys(weights, shapes, roots, expected)
        state = {key: _as_weight(weights, prefix + key, fetch) for key in expected}
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise Da3CheckpointError(f"{weights}: {len(broken)} tensors hold NaN or infinity: {_shown(broken)}")
    return state, LoadReport(weights, len(state), sum(v.numel() for v in state.values()), ignored)


def read_root(config: Path, variant: str) -> str:
    """Where ``variant``'s networks lie in the file that ``config`` (config.json) describes, e.g. ``model.``."""
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise Da3CheckpointError(f"{config}: {config.stat().st_size} bytes is too large for a DA3 config.json")
    try:
        content = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Da3CheckpointError(f"{config}: not valid JSON: {_one_line(error)}") from None
    name = content.get("model_name") if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise Da3CheckpointError(f"{config}: no text under 'model_name', so this is not the config.json of a DA3 file")
    places = MODEL_NAMES.get(name.lower())
    if places is None:
        raise Da3CheckpointError(f"{config}: model_name {name[:80]!r} is unknown: known are {', '.join(MODEL_NAMES)}")
    if variant not in places:
        raise Da3CheckpointError(
            f"{config}: model_name {name!r} contradicts da3.variant {variant!r}: set da3.variant to {' or '.join(places)}"
        )
    return places[variant]


def match_keys(
    path: Path, shapes: Mapping[str, Shape | str], roots: Iterable[str], expected: Mapping[str, Shape]
) -> tuple[str, dict[str, int]]:
    """The prefix of the encoder's keys, and the count of ignored keys by prefix.

    ``shapes``: every key of the file with its shape, or with a word saying why it is no weight. Raises
    Da3CheckpointError unless the encoder's keys are exactly ``expected`` and all others belong to a known part.
    """
    found = [root for root in roots if any(key.startswith(root + ENCODER) for key in shapes)]
    if len(found) != 1:
        wanted = " or ".join(sorted(f"{root}{ENCODER}*" for root in roots))
        raise Da3CheckpointError(
            f"{path}: needs encoder keys {wanted}, and holds {len(shapes)} keys: {_shown(map(_clipped, shapes))}"
        )
    prefix = found[0] + ENCODER
    inside = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    ignored, strangers = _sort_rest([key for key in shapes if not key.startswith(prefix)], found[0])
    missing = [_described(prefix + k, tuple(shape)) for k, shape in expected.items() if k not in inside]
    unexpected = [_described(prefix + k, s) for k, s in inside.items() if k not in expected]
    unexpected += [_described(k, shapes[k]) for k in strangers]
    misfits = [
        f"{_described(prefix + k, s)} but the encoder has {list(expected[k])}"
        for k, s in inside.items()
        if k in expected and s != tuple(expected[k])
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misfits}
    if any(problems.values()):
        text = "; ".join(f"{len(keys)} {kind} keys: {_shown(keys)}" for kind, keys in problems.items() if keys)
        raise Da3CheckpointError(f"{path}: not the weights of this encoder: {text}")
    return prefix, ignored


def _sort_rest(keys: list[str], root: str) -> tuple[dict[str, int], list[str]]:
    """Count of ``keys`` by allowed prefix, and the keys that no prefix allows."""
    allowed = [root + part for part in OTHER_PARTS]
    if root != "model.":  # two networks in one file: all of the other one is allowed too
        roots = {place for places in MODEL_NAMES.values() if len(places) > 1 for place in places.values()}
        allowed += [other + part for other in sorted(roots - {root}) for part in (ENCODER, *OTHER_PARTS)]
    ignored = {prefix: sum(key.startswith(prefix) for key in keys) for prefix in allowed}
    strangers = [key for key in keys if not key.startswith(tuple(allowed))]
    return {prefix: count for prefix, count in ignored.items() if count}, strangers


Opened = tuple[dict[str, Shape | str], Callable[[str], Tensor]]


def _open_safetensors(path: Path, stack: ExitStack) -> Opened:
    with path.open("rb") as file:
        declared = int.from_bytes(file.read(8), "little")
    if declared > MAX_HEADER_BYTES:
        raise Da3CheckpointError(f"{path}: declares a header of {declared} bytes, more than {MAX_HEADER_BYTES}")
    try:
        tensors = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - not a dict
        shapes: dict[str, Shape | str] = {
            key: tuple(part.get_shape()) if part.get_dtype() in ("F64", "F32", "F16", "BF16") else part.get_dtype()
            for key, part in slices.items()
        }
    except SafetensorError as error:
        raise Da3CheckpointError(f"{path}: not a complete safetensors file: {_one_line(error)}") from None
    return shapes, tensors.get_tensor


def _open_pickle(path: Path, _: ExitStack) -> Opened:
    try:
        check_archive(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedArchive as error:
        raise Da3CheckpointError(f"{path}: {_one_line(error)}") from None
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"blocked global {_clipped(blocked[1])}" if blocked else _one_line(error)
        raise Da3CheckpointError(f"{path}: refused, more than plain tensors: {reason}") from None
    # A damaged pickle raises whatever its broken opcodes run into.
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
    ) as error:
        raise Da3CheckpointError(f"{path}: not a readable torch file: {_one_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Da3CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict of named tensors")
    return {key: _pickled_shape(value) for key, value in content.items()}, content.__getitem__


def _pickled_shape(value: object) -> Shape | str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_nested
    return tuple(value.shape) if plain and value.is_floating_point() else f"{value.dtype} {value.layout}"


def _as_weight(path: Path, name: str, fetch: Callable[[str], Tensor]) -> Tensor:
    try:
        return fetch(name).detach().to(torch.float32, copy=True)  # a copy: the file may be mapped into memory
    except SafetensorError as error:
        raise Da3CheckpointError(f"{path}: cannot read {name}: {_one_line(error)}") from None


def _described(key: str, shape: Shape | str) -> str:
    return f"{_clipped(key)} {list(shape) if isinstance(shape, tuple) else shape}"


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _clipped(text: str) -> str:
    """``text`` fit for one line: a key of an untrusted file may hold line breaks or be very long."""
    return ascii(text)[1:-1][:160]


def _one_line(error: Exception) -> str:
    return _clipped(" ".join(str(error).split())) or type(error).__name__
