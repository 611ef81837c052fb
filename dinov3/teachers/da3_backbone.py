"""A frozen Depth Anything 3 encoder as a token teacher: built from the ``da3`` config block, loaded strictly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dinov3.models.da3 import PATCH, VARIANTS, DA3Encoder
from dinov3.system.paths import expanded
from dinov3.weights.hub import NotOnHub, fetched, is_hub_id
from dinov3.weights.reading.da3_checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Da3CheckpointError,
    Da3CheckpointNotFoundError,
    read_da3_weights,
    read_root,
)

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RANDOM_INIT_SEED = 0
# variant -> (Hub id, licence of the weights as the authors' README states it)
SOURCES = {
    "small": ("depth-anything/DA3-SMALL", "Apache-2.0"),
    "base": ("depth-anything/DA3-BASE", "Apache-2.0"),
    "large": ("depth-anything/DA3-LARGE-1.1", "CC BY-NC 4.0"),
    "giant": ("depth-anything/DA3-GIANT-1.1", "CC BY-NC 4.0"),
    "mono-large": ("depth-anything/DA3MONO-LARGE", "Apache-2.0"),
    "metric-large": ("depth-anything/DA3METRIC-LARGE", "Apache-2.0"),
}

Grid = tuple[int, int]


class Da3Settings(Protocol):
    """The keys of the config block ``da3`` that are read here."""

    @property
    def variant(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def ckpt_path(self) -> str: ...
    @property
    def embed_dim(self) -> int | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def random_init(self) -> bool: ...


class Da3Backbone(nn.Module):
    """A frozen encoder: images [N, 3, H, W], RGB with ImageNet mean and std, to fp32 tokens [N, P, D] without a graph.

    Each image is its own scene: a token depends on its own image only. Weights stay fp32, matrix products run in
    ``dtype`` whatever the caller's autocast says. Stays in eval mode through ``.train()``.
    State-dict keys are the official ones without ``model.``.
    """

    def __init__(self, encoder: DA3Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = encoder
        self.dtype = dtype
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Da3Backbone:
        return super().train(False)

    @torch.no_grad()  # not inference_mode: its tensors cannot be saved for the loss's backward
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.backbone(images.float()).float()  # [N, P, D]


def build_da3_backbone(da3_cfg: Da3Settings) -> tuple[Da3Backbone, int]:
    """The frozen teacher on the CPU with its weights loaded, and the width D of its tokens.

    ``ckpt_path``: a folder with ``config.json`` and ``model.safetensors``, a ``.safetensors``, ``.pth`` or ``.pt``
    file, or a Hub id ``org/name`` when huggingface_hub is installed. With ``random_init: true`` (for tests) the weights
    are random, the same in every process. ValueError names the key, its value and the choices; a missing file is a
    ValueError that is also a FileNotFoundError.
    """
    variant = _choice("variant", da3_cfg.variant, VARIANTS)
    dtype = DTYPES[_choice("dtype", da3_cfg.dtype, DTYPES)]
    spec = VARIANTS[variant]
    try:
        width = spec.width(da3_cfg.target)
    except ValueError as error:
        raise ValueError(f"da3.target with da3.variant {variant!r}: {error}") from None
    if da3_cfg.embed_dim is not None and da3_cfg.embed_dim != width:
        raise ValueError(
            f"da3.embed_dim is {da3_cfg.embed_dim}, but variant {variant!r} with target {da3_cfg.target!r} "
            f"returns {width}: set {width}, or null to derive it"
        )
    if da3_cfg.random_init and da3_cfg.ckpt_path:
        raise ValueError(f"da3.random_init is true and da3.ckpt_path is {da3_cfg.ckpt_path!r}: set only one")
    with torch.device("meta"):
        encoder = DA3Encoder(spec, da3_cfg.target)
    if da3_cfg.random_init:
        encoder.to_empty(device="cpu").init_weights(torch.Generator("cpu").manual_seed(RANDOM_INIT_SEED))
    else:
        _load(encoder, variant, da3_cfg.ckpt_path)
    return Da3Backbone(encoder, dtype), width


def _choice(key: str, value: str, choices: dict[str, Any]) -> str:
    if value not in choices:
        raise ValueError(f"da3.{key} {value!r} is unknown: use one of {', '.join(choices)}")
    return value


def _load(encoder: DA3Encoder, variant: str, ckpt_path: str) -> None:
    expected = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    state, report = read_da3_weights(find_checkpoint(ckpt_path, variant), variant, expected)
    encoder.load_state_dict(state, strict=True, assign=True)
    logger.info("DA3 teacher %s from %s", variant, report)


def find_checkpoint(ckpt_path: str, variant: str) -> Path:
    """The local folder or file of ``ckpt_path``; a Hub id ``org/name`` is downloaded into the Hub's cache first.

    ``org/name`` is a Hub id only when neither that path nor a local folder ``org`` exists.
    """
    if not ckpt_path:
        raise Da3CheckpointError(_what_to_download(variant))
    path = expanded(ckpt_path)
    if path.exists():
        return path
    if not is_hub_id(ckpt_path):
        raise Da3CheckpointNotFoundError(f"da3.ckpt_path {ckpt_path!r} does not exist")
    try:
        read_root(fetched(ckpt_path, CONFIG_FILE), variant)  # the wrong variant costs 2 kB, not gigabytes
        return fetched(ckpt_path, WEIGHTS_FILE).parent
    except NotOnHub as error:
        raise Da3CheckpointNotFoundError(f"da3.ckpt_path {ckpt_path!r} does not exist here, and {error}") from error


def _what_to_download(variant: str) -> str:
    licences: dict[str, list[str]] = {}
    for name, (_, licence) in SOURCES.items():
        licences.setdefault(licence, []).append(name)
    terms = "; ".join(f"{licence}: {', '.join(names)}" for licence, names in licences.items())
    return (
        f"da3.ckpt_path is empty: download {CONFIG_FILE} and {WEIGHTS_FILE} of "
        f"https://huggingface.co/{SOURCES[variant][0]} and set da3.ckpt_path to their folder. Licences of the variants: "
        f"{terms}. For tests without a file: da3.random_init=true and "
        "da3.ckpt_path= together"
    )


def teacher_input_size(student_size: int, student_patch: int = 16, teacher_patch: int = PATCH) -> int:
    """Pixels a side at which the teacher's patch grid equals the student's: 256 with patch 16 is 224 with patch 14.

    ValueError names the nearest student sizes that are a whole number of patches.
    """
    if min(student_size, student_patch, teacher_patch) < 1:
        raise ValueError(f"sizes must be positive, got {student_size}, {student_patch} and {teacher_patch}")
    cells, rest = divmod(student_size, student_patch)
    if rest:
        legal = [f"{n * student_patch} (teacher {n * teacher_patch})" for n in (cells, cells + 1) if n]
        raise ValueError(
            f"student size {student_size} is not a multiple of patch {student_patch}: use {' or '.join(legal)}"
        )
    return cells * teacher_patch
