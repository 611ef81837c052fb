"""The description of a backbone that our own exports carry: all it takes to build it again and to feed it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.system.json_file import JsonError, parse
from dinov3.weights.files import CONFIG, OURS, SINGLE, WeightsError, read_json
from dinov3.weights.provenance import checked_provenance
from dinov3.weights.reading.errors import one_line
from dinov3.weights.settings import checked_fingerprint, checked_preprocess, checked_settings, said

FORMAT, VERSION = "dinov3-backbone", 1
BACKBONE = "backbone.safetensors"


def sidecar_of(weights: Path) -> Path:
    """Where a weight file's description lies: ``config.json`` in a folder of ours, ``FILE.json`` otherwise."""
    return weights.with_name(CONFIG) if weights.name in (BACKBONE, SINGLE) else weights.with_suffix(".json")


def is_description(content: Mapping[str, Any]) -> bool:
    """Ours, and not the ``config.json`` of another program?"""
    return content.get("format") == FORMAT


def checked_description(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What this program knows of it, every setting and number checked; WeightsError unless it can be used."""
    if not is_description(content) or "class" not in content or not isinstance(content.get("config"), dict):
        raise WeightsError(f"{source}: not the description of a dinov3 backbone")
    if (version := content.get("format_version")) != VERSION:
        raise WeightsError(f"{source}: format version {said(version)}, this program reads {VERSION}")
    checked: dict[str, Any] = {"format": FORMAT, "format_version": VERSION, "class": content["class"]}
    checked["config"] = checked_settings(content["class"], content["config"], source)
    if content.get("preprocess"):
        checked["preprocess"] = checked_preprocess(content["preprocess"], source)
    if "fingerprint" in content:
        checked["fingerprint"] = checked_fingerprint(content["fingerprint"], source)
    if "provenance" in content:
        checked["provenance"] = checked_provenance(content["provenance"], source)
    return checked


def read_description(path: Path) -> dict[str, Any]:
    """A ``config.json`` of ours. Raises WeightsError."""
    return checked_description(read_json(path), str(path))


def as_metadata(description: Mapping[str, Any]) -> dict[str, str]:
    """What a safetensors file of another layout carries so that it can come back exactly."""
    return {"format": "pt", OURS: json.dumps(dict(description))}


def from_metadata(metadata: Mapping[str, str], source: str) -> dict[str, Any] | None:
    """The opposite of ``as_metadata``; None when the file is somebody else's."""
    if OURS not in metadata:
        return None
    try:
        content = parse(metadata[OURS])
    except JsonError as error:
        raise WeightsError(f"{source}: its metadata are damaged: {one_line(error)}") from error
    return checked_description(content if isinstance(content, dict) else {}, source)
