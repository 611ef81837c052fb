"""What texts and latents come from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Text(NamedTuple):
    """A text as tokens; what lies behind its end is padding."""

    tokens: NDArray[np.float16]  # [L, W]
    mask: NDArray[np.uint8]  # [L], 1 where there is text


class TextCoder(Protocol):
    """Texts to tokens. ``name`` says everything the tokens depend on."""

    @property
    def name(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def width(self) -> int: ...

    def encode(self, text: str) -> Text: ...


class LatentCoder(Protocol):
    """Images to latents an eighth of their size, and back. ``name`` says everything the latents depend on."""

    @property
    def name(self) -> str: ...
    @property
    def channels(self) -> int: ...

    def encode(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` in [0, 1] -> ``[C, H / 8, W / 8]`` float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, 3, 8 h, 8 w]`` in [0, 1]."""
