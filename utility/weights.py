"""Weight files of other programs, read without running anything that is in them, with names turned into ours."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Written by wrappers and by whole-model checkpoints in front of the backbone's own names; taken off, nothing else is.
WRAPPERS = ("module.", "_orig_mod.", "teacher.", "model_ema.")
HEADS = ("dino_head.", "ibot_head.")


class WeightsError(Exception):
    """A weight file cannot be used; the message names the file and says why."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file by name.

    A ``.pth`` is read with ``weights_only=True``: a file that holds anything but tensors and plain containers is
    refused, not run. DINOv3's ``{"teacher": {...}}`` is opened.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: not a weight file, or holds more than tensors; it was not opened") from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not a readable weight file: {type(error).__name__}") from error
    if isinstance(content, dict) and isinstance(content.get("teacher"), dict):
        content = content["teacher"]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise WeightsError(f"{path}: expected a table of tensors, or one under 'teacher'")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path}: {name} is not a plain tensor of finite floats")
    return content


def model_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as a whole model has them: ``backbone.*``, ``dino_head.*``, ``ibot_head.*``.

    A flat backbone, as released, gets ``backbone.`` in front.
    """
    bare = {}
    for name, tensor in tensors.items():
        while name.startswith(WRAPPERS):
            name = next(name.removeprefix(w) for w in WRAPPERS if name.startswith(w))
        bare[name] = tensor
    if any(name.startswith("backbone.") for name in bare):
        return bare
    return {f"backbone.{name}": tensor for name, tensor in bare.items()}


def backbone_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Only the backbone's tensors, under the backbone's own names; heads are left out."""
    whole = model_part(tensors)
    return {k.removeprefix("backbone."): v for k, v in whole.items() if not k.startswith(HEADS)}
