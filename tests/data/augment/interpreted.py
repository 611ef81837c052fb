"""The kernels of the colour changes, run by Triton's interpreter: prints how far each case is from the plain operators.

A process of its own: triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from dinov3.config.schema import Config
from dinov3.data.augment import photometric, photometric_fused, photometric_kernels
from dinov3.data.augment.augmentation import JITTER_OPS, CropParams
from tests.data.augment.test_photometric import nothing, pictures, random_params, untouched


def jittered(params: CropParams) -> CropParams:
    return replace(params, jittered=np.ones(len(params.gray), dtype=bool))


def cases() -> dict[str, CropParams]:
    """Small stacks: the interpreter takes most of a second a crop."""
    found, yes = {}, np.array([True, False, True])
    for operation, name in enumerate(JITTER_OPS):
        params = jittered(untouched(4))
        params.factors[:, 3] = 0
        params.factors[:, operation] = np.array([0.0, 0.6, 1.0, 1.4]) - (name == "hue")
        found[name] = params
    orders = replace(untouched(5), jittered=np.array([True] * 4 + [False]))
    orders.factors[:] = (1.3, 0.7, 1.2, 0.07)
    orders.order[:4] = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)]
    found["orders"] = orders
    found["gray"] = replace(untouched(3), gray=yes)
    found["solarized"] = replace(untouched(3), solarized=yes)
    found["blur"] = replace(untouched(3), sigma=np.array([0.1, 0.0, 2.0]))
    for turns in range(4):
        found[f"turns {turns}"] = replace(
            untouched(4),
            mirrored=np.array([False, True] * 2),
            upside_down=np.array([False, False, True, True]),
            turns=np.array([turns] * 4, dtype=np.int8),
        )
    found["everything"] = random_params(1, Config())
    found["stained"] = replace(untouched(3), stained=np.ones(3, dtype=bool), stain_target=np.full((3, 6), 0.5))
    found["none"] = untouched(0)
    return found


def difference(params: CropParams, *, size: int = 12, clean_size: int = 6, channels: int = 3) -> list[float]:
    """Largest absolute difference of the crops, and of the clean crops."""
    crops = pictures(max(len(params.gray), 3), size, channels)[: len(params.gray)]
    normalization = nothing()
    if channels != 3:
        plain = (0.0,) * channels, (1.0,) * channels
        normalization = photometric.Normalization(*plain, torch.float32, torch.device("cpu"))
    expected = photometric.render(crops, params, normalization, clean_size=clean_size)
    found = photometric_fused.render(crops, params, normalization, clean_size=clean_size)
    gaps = []
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.shape == theirs.shape
        gaps.append(float((ours - theirs).abs().max()) if ours.numel() else 0.0)
    return gaps


class Grids:
    """In the place of a kernel: the grids it is started with."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.seen.append(list(grid))
        return lambda *_, **__: None


def grids(crops: int) -> list[list[int]]:
    """Of all kernels for so many crops that have no memory."""
    noted = Grids()
    like = {name: torch.empty(3, device="meta") for name in ("mean", "std")}
    pixels, values = (
        torch.empty(crops, 8, 8, 3, dtype=torch.uint8, device="meta"),
        torch.empty(crops, 23, device="meta"),
    )
    with patch.multiple(photometric_kernels, _contrast_mean=noted, _colours=noted, _blurred=noted):
        photometric_kernels.launch(pixels, values, **like, dtype=torch.bfloat16, recolors=True, blurs=True)
    return noted.seen


def main() -> None:
    photometric_kernels.BLOCK = 64  # several programs a crop
    columns = [getattr(photometric_kernels, n).value for n in ("BLURRED", "ORDER", "FACTORS", "TAPS_FROM")]
    operations = [getattr(photometric_kernels, n).value for n in ("BRIGHTNESS", "CONTRAST", "SATURATION")]
    found = {name: difference(params) for name, params in cases().items()}
    found["same size"] = difference(replace(untouched(2), gray=np.array([True, False])), clean_size=12)
    found["odd size"] = difference(random_params(1, Config(), seed=1), size=7)
    five = replace(untouched(3), mirrored=np.array([True, False, True]), sigma=np.array([0.0, 1.0, 2.0]))
    found["five channels"] = difference(five, channels=5)
    print(json.dumps({"columns": columns, "operations": operations, "differences": found, "grids": grids(8 * 4096)}))


if __name__ == "__main__":
    main()
