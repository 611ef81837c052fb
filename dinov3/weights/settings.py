"""Numbers and words of files, checked before anything is built or computed with them.

A JSON file can say anything: a number of 4,000 digits, no heads, a hundred thousand blocks, infinity, text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from dinov3.models.build import OURS
from dinov3.models.convnext import N_STAGES, ConvNeXtConfig
from dinov3.models.vit_config import QKV, VitConfig
from dinov3.weights.names.recognition import Shapes, is_convnext, seen_settings
from dinov3.weights.reading.errors import WeightsError, clipped

LARGEST = 1 << 16  # of every width, count and size; the largest model has a width of 4096
FURTHEST, SMALLEST = 1e6, 1e-6  # of every other number, and of those that are divided by
KINDS: dict[str, type[VitConfig] | type[ConvNeXtConfig]] = {
    "DinoVisionTransformer": VitConfig,
    "ConvNeXt": ConvNeXtConfig,
}
SIZES = ("embed_dim", "depth", "in_chans", "patch_size", "n_storage_tokens", "stem_filters", "depths", "dims")
POSITIVE = ("ffn_ratio", "pos_embed_rope_base", "pos_embed_rope_min_period", "pos_embed_rope_max_period")
MAY_BE_ZERO = ("n_storage_tokens",)
COEFFICIENTS = 64  # of a fingerprint, at most


def whole(value: Any, key: str, source: str, low: int = 1, high: int = LARGEST) -> int:
    """``value`` when it is a whole number from ``low`` to ``high``; WeightsError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WeightsError(f"{source}: {key} is {said(value)}: a whole number from {low} to {high} is wanted")
    return value


def real(value: Any, key: str, source: str, low: float = -FURTHEST, high: float = FURTHEST) -> float:
    """``value`` as a float when it is a number from ``low`` to ``high``; WeightsError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WeightsError(f"{source}: {key} is {said(value)}: a number from {low:g} to {high:g} is wanted")
    return float(value)


def said(value: Any) -> str:
    """A value of a file for a message; Python prints no number of more than 4,300 digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 64:
        return "a number of more than 19 digits"
    return (
        clipped(repr(value[:60] if isinstance(value, str) else value), 64)
        if isinstance(value, str | int | float | None)
        else f"a {type(value).__name__}"
    )


def checked_settings(kind: Any, config: Any, source: str) -> dict[str, Any]:
    """All arguments of a backbone of class ``kind`` from a description. WeightsError unless such a one can be built."""
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(config, Mapping):
        raise WeightsError(f"{source}: describes a {said(kind)}: known are {' and '.join(KINDS)}")
    types = {field.name: str(field.type) for field in fields(KINDS[kind])}
    if strange := sorted(set(config) - set(types)):
        raise WeightsError(f"{source}: describes a {kind} with {clipped(strange[0])}, which is unknown here")
    checked = {key: _checked(value, types[key], key, source) for key, value in config.items()}
    try:
        complete = asdict(KINDS[kind](**checked))
    except ValueError as error:
        raise WeightsError(f"{source}: {clipped(error)}") from error
    return {name: value for name, value in complete.items() if value is not None or name not in OURS}


def _checked(value: Any, kind: str, key: str, source: str) -> Any:
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "int":
        return whole(value, key, source, low=0 if key in MAY_BE_ZERO else 1)
    if kind == "float":
        return real(value, key, source, low=SMALLEST if key in POSITIVE else -FURTHEST)
    if kind == "Sequence[int]":
        if not isinstance(value, list | tuple) or len(value) != N_STAGES:
            raise WeightsError(f"{source}: {key} is {said(value)}: a list of {N_STAGES} numbers is wanted")
        return [whole(v, key, source) for v in value]
    if kind.startswith("tuple[BlockShape"):
        return _block_shapes(value, key, source)
    if not isinstance(value, bool if kind == "bool" else str):
        raise WeightsError(
            f"{source}: {key} is {said(value)}: {'true or false' if kind == 'bool' else 'text'} is wanted"
        )
    return value


def _block_shapes(value: Any, key: str, source: str) -> list[dict[str, Any]]:
    """Widths and ranks of a compressed model's blocks."""
    if not isinstance(value, list | tuple) or len(value) > LARGEST:
        raise WeightsError(f"{source}: {key} is {said(value)}: a list of blocks is wanted")
    found = []
    for shape in value:
        ranks = shape.get("ranks", {}) if isinstance(shape, Mapping) else None
        if not isinstance(ranks, Mapping) or not {"heads", "hidden"} <= set(shape) <= {"heads", "hidden", "ranks"}:
            raise WeightsError(f"{source}: {key}: a block has heads, hidden and ranks")
        widths = {name: whole(shape[name], f"{key}: {name}", source) for name in ("heads", "hidden")}
        named = {str(name): whole(rank, f"{key}: a rank", source) for name, rank in ranks.items()}
        found.append({**widths, "ranks": named})
    return found


def _check_widths(config: Mapping[str, Any], shapes: Shapes, source: str) -> None:
    """WeightsError when the blocks of a compressed model are described wider or narrower than their tensors."""
    down = "fc2" if config["ffn_layer"] == "mlp" else "w3"
    for index, shape in enumerate(config["block_shapes"]):
        block = f"blocks.{index}"
        ranks = shape["ranks"]
        told = {f"{block}.mlp.{down}{'.first' if down in ranks else ''}.weight": (1, shape["hidden"])}
        for name, rank in ranks.items():
            place = "attn.qkv." if name in QKV else "attn." if name == "proj" else "mlp."
            told[f"{block}.{place}{name}.second.weight"] = (1, rank)
        for name, (axis, width) in told.items():
            if name not in shapes or len(shapes[name]) != 2 or shapes[name][axis] != width:
                raise WeightsError(
                    f"{source}: its description says {width} for {clipped(name)}, its tensors say {shapes.get(name)}: "
                    "they do not belong together"
                )


def check_agreement(config: Mapping[str, Any] | None, shapes: Shapes, source: str) -> None:
    """WeightsError for tensors that no backbone can have, and when their description speaks of other sizes.

    So that a few bytes cannot ask for gigabytes: what is built has the blocks and widths that the file has.
    """
    try:
        seen = seen_settings(shapes)
    except ValueError as error:
        raise WeightsError(f"{source}: {clipped(error)}") from error
    if config is None:
        return
    if ("dims" in config) != is_convnext(shapes):
        raise WeightsError(f"{source}: its description is of another architecture than its tensors")
    if config.get("block_shapes") is not None:
        _check_widths(config, shapes, source)
    for key in SIZES:
        if key in config and key in seen and _plain(config[key]) != _plain(seen[key]):
            raise WeightsError(
                f"{source}: its description says {key} {said(config[key]) if key not in ('depths', 'dims') else config[key]}, "
                f"its tensors have {seen[key]}: they do not belong together"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def checked_preprocess(found: Any, source: str) -> dict[str, Any]:
    """``mean``, ``std``, ``value_range`` and ``size`` of a description, those that are there. WeightsError for other than numbers."""
    if not isinstance(found, Mapping):
        raise WeightsError(f"{source}: its preprocess is {said(found)}: a table is wanted")
    checked: dict[str, Any] = {}
    for key, low in (("mean", -FURTHEST), ("std", 1e-9)):
        if key in found:
            values = found[key]
            if not isinstance(values, list | tuple) or not 1 <= len(values) <= LARGEST:
                raise WeightsError(f"{source}: {key} is {said(values)}: a list of numbers is wanted")
            checked[key] = [real(v, key, source, low) for v in values]
    if found.get("value_range") is not None:
        values = found["value_range"]
        if not isinstance(values, list | tuple) or len(values) != 2:
            raise WeightsError(f"{source}: value_range is {said(values)}: [black, white] is wanted")
        checked["value_range"] = [real(v, "value_range", source, -FURTHEST * 1e4, FURTHEST * 1e4) for v in values]
        if checked["value_range"][0] >= checked["value_range"][1]:
            raise WeightsError(f"{source}: value_range is {said(values)}: black must be below white")
    if found.get("size") is not None:
        checked["size"] = whole(found["size"], "size", source)
    return checked


def checked_fingerprint(found: Any, source: str) -> list[float]:
    """The numbers of a fingerprint."""
    if not isinstance(found, list) or not 1 <= len(found) <= COEFFICIENTS:
        raise WeightsError(f"{source}: its fingerprint is {said(found)}: a list of numbers is wanted")
    return [real(v, "fingerprint", source, -1e30, 1e30) for v in found]
