"""Paths as people write them: with ``~``, or the id of a model on the Hugging Face Hub where huggingface_hub is installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from dinov3.system.errors import first_line
from dinov3.system.paths import expanded
from dinov3.weights.files import CONFIG, INDEX, SINGLE, read_json
from dinov3.weights.reading.errors import WeightsError, clipped

ID = re.compile(r"\w[\w-]*/\w[\w.-]*", re.ASCII)
# What is copied from a browser; of a path that was read one slash is left. Group 1: the id in it.
ADDRESS = re.compile(
    r"(?:(?:hf:/+|https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/)(\w[\w-]*/\w[\w.-]*)|\w{2,}:/)", re.ASCII
)
ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")  # of files: no id ends in one
INSTALL = "pip install huggingface-hub, or download it and name the folder"


class NotOnHub(Exception):
    """A file could not be had from the Hub; the message is one line and says why."""


def is_hub_id(text: str | Path) -> bool:
    """``org/name``, and neither such a path nor a folder ``org`` here."""
    path = Path(text)
    return (
        bool(ID.fullmatch(str(text))) and path.suffix not in ENDINGS and not path.exists() and not path.parent.exists()
    )


def fetched(repo_id: str, name: str) -> Path:
    """A file of a model, in the Hub's cache. Raises NotOnHub."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise NotOnHub(f"reading it as a Hub id needs huggingface_hub: {INSTALL}") from None
    try:
        return Path(hub.hf_hub_download(repo_id, name))
    except (OSError, ValueError) as error:  # the Hub's own errors are one or the other
        reason = first_line(error)
        raise NotOnHub(f"{name} could not be read from the Hub: {clipped(reason)}") from error


def located(text: str | Path) -> Path:
    """Where the weights that ``text`` names lie: a path, or the Hub's cache after a download. Raises WeightsError.

    ``config.json`` comes first: a repository of something else costs 2 kB, not gigabytes. A path that does not exist and
    looks like no id is returned as it is; whoever reads it says so.
    """
    if match := ADDRESS.match(str(text)):
        meant = f"the Hub id {match[1]}" if match[1] else "a Hub id, ORG/NAME, or download it and give the path"
        raise WeightsError(f"{text}: weights are not read from an address: give {meant}")
    if not is_hub_id(text):
        return expanded(text)
    repo_id = str(text)
    try:
        config = fetched(repo_id, CONFIG)
        read_json(config)
        try:
            fetched(repo_id, SINGLE)
        except NotOnHub as single:
            try:
                index = fetched(repo_id, INDEX)
            except NotOnHub:
                raise single from None
            placed = read_json(index).get("weight_map")
            for name in sorted({str(v) for v in placed.values()} if isinstance(placed, dict) else ()):
                fetched(repo_id, name)
    except NotOnHub as error:
        gated = " (models with terms: accept them on its page, then `hf auth login`)" if _refused(str(error)) else ""
        raise WeightsError(f"{repo_id}: is no path here, and {error}{gated}") from error
    return config.parent


def _refused(reason: str) -> bool:
    return any(word in reason for word in ("401", "403", "gated", "Access"))
