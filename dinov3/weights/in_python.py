"""``dinov3.export``: the command in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dinov3.system.paths import expanded
from dinov3.weights import export as writing

Layout = Literal["meta", "safetensors", "hf", "timm", "onnx"]


def export(weights: str | Path, out: str | Path, *, format: Layout | None = None, heads: bool = False) -> Path:
    """Write a backbone for other programs, as ``dinov3 export`` does; what was written.

    ``weights``: a run, a checkpoint or any weight file; ``format``: None goes by the ending of ``out``; ``heads``: Meta's
    ``{"teacher": ...}``. The file is read back by the program it is for and its tokens are compared before it appears.
    Raises WeightsError, CheckpointError and OSError.
    """
    written, *said = writing.export(expanded(weights), expanded(out), layout=format, heads=heads)
    print("\n".join([written, *said]))
    return Path(written)
