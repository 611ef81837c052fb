"""Read the encoder weights out of an official Depth Anything 3 file: strictly, and without executing anything in it.

The file is untrusted input: names and shapes are checked against the encoder before a tensor is read, pickles are
read without running anything (``pickle_records``), and a weight that is not finite is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinov3.system.json_file import JsonError, parse
from dinov3.weights.files import FLOATS, check_header, open_torch
from dinov3.weights.reading.errors import WeightsError, clipped, one_line
from dinov3.weights.reading.mistaken import HEAD, mistaken
from dinov3.weights.reading.tables import find_table
from dinov3.weights.reading.torch_archive import DamagedArchive
from dinov3.weights.reading.torch_file import Plan, is_tensor

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 1 << 20  # the official one has about 2 kB
ENDINGS = (".safetensors", ".pth", ".pt")
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
    if weights.suffix not in ENDINGS:
        raise Da3CheckpointError(f"{weights}: unknown kind of file: use a folder, {', '.join(ENDINGS)}")
    with ExitStack() as stack:
        shapes, fetch = _open(weights, stack)
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
    text = config.read_bytes()
    try:
        content = parse(text)
    except JsonError as error:
        if (what := mistaken(text[:HEAD], len(text))) and text[:1] not in (b"{", b"["):
            raise Da3CheckpointError(f"{config}: is {what}") from None
        raise Da3CheckpointError(f"{config}: {one_line(error)}") from None
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
            f"{path}: needs encoder keys {wanted}, and holds {len(shapes)} keys: {_shown(map(clipped, shapes))}"
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


def _open(path: Path, stack: ExitStack) -> Opened:
    file = stack.enter_context(path.open("rb"))
    head = file.read(HEAD)
    if what := mistaken(head, os.fstat(file.fileno()).st_size):
        raise Da3CheckpointError(f"{path}: is {what}")
    try:
        return _open_safetensors(path, file, head, stack) if path.suffix == ".safetensors" else _open_torch(path, file)
    except WeightsError as error:
        raise Da3CheckpointError(str(error)) from None


def _open_safetensors(path: Path, file: BinaryIO, head: bytes, stack: ExitStack) -> Opened:
    check_header(path, head, os.fstat(file.fileno()).st_size)
    try:
        tensors = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - not a dict
        shapes: dict[str, Shape | str] = {
            key: tuple(part.get_shape()) if part.get_dtype() in ("F64", "F32", "F16", "BF16") else part.get_dtype()
            for key, part in slices.items()
        }
    except SafetensorError as error:
        raise Da3CheckpointError(f"{path}: not a complete safetensors file: {one_line(error)}") from None
    return shapes, tensors.get_tensor


def _open_torch(path: Path, file: BinaryIO) -> Opened:
    """Shapes are known before a tensor is made."""
    content = open_torch(file, os.fstat(file.fileno()).st_size, path)
    try:
        table = find_table(content.content, is_tensor)
    except WeightsError as error:
        raise Da3CheckpointError(f"{path}: {error}") from None
    plans = {key: content.plan(value) for key, value in table.items()}
    shapes: dict[str, Shape | str] = {
        key: plan if isinstance(plan, str) else plan.shape if plan.dtype in FLOATS else str(plan.dtype)
        for key, plan in plans.items()
    }

    def fetch(key: str) -> Tensor:
        plan = plans[key]
        assert isinstance(plan, Plan), "only those with a shape are asked for"
        return content.tensor(plan)

    return shapes, fetch


def _as_weight(path: Path, name: str, fetch: Callable[[str], Tensor]) -> Tensor:
    try:
        return fetch(name).detach().to(torch.float32, copy=True)  # a copy: the file may be mapped into memory
    except (SafetensorError, DamagedArchive) as error:
        raise Da3CheckpointError(f"{path}: cannot read {clipped(name)}: {one_line(error)}") from None


def _described(key: str, shape: Shape | str) -> str:
    return f"{clipped(key)} {list(shape) if isinstance(shape, tuple) else shape}"


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
