"""What is done to the colours and the orientation of each crop: settings from the config, parameters from draws.

Parameters are host arrays with one entry a crop. They follow from the sample's own uniforms, so a crop looks the same
in any batch, on any process and on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import permutations
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.config.schema import Config
from dinov3.data.crops import GLOBAL_CROPS, CropGeometry

PHOTOMETRIC_DRAWS = 13  # uniform numbers one view may use
JITTER_OPS = ("brightness", "contrast", "saturation", "hue")
ORDERS = np.array(list(permutations(range(len(JITTER_OPS)))), dtype=np.int8)  # [24, 4]

# "published" is what DINOv3 says it does. "official" is what its code does: it hands 1 - p to an operation that
# expects p, so blur is applied to 0 %, 90 % and 50 % of the crops instead of 100 %, 10 % and 50 %.
# "histology": the stain is the signal, so colours move little, gray, solarised and blurred tissue is not shown, and
# tissue has no upright direction, so every turn and flip is.
_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {
        "color_jitter_prob": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "grayscale_prob": 0.2,
        "blur_prob_global_1": 1.0,
        "blur_prob_global_2": 0.1,
        "blur_prob_local": 0.5,
        "blur_sigma": (0.1, 2.0),
        "solarize_prob_global_2": 0.2,
        "vertical_flips": False,
        "rot90": False,
        "stain_prob": 0.0,
        # of slide TCGA-A2-A3XS-DX1, the usual standard for H&E (Amgad et al. 2019)
        "stain_mean": (8.74108109, -0.12440419, 0.0444982),
        "stain_std": (0.6135447, 0.10989545, 0.0286032),
    }
)
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "published": _PUBLISHED,
        "official": {**_PUBLISHED, "blur_prob_global_1": 0.0, "blur_prob_global_2": 0.9},
        "histology": {
            **_PUBLISHED,
            "brightness": 0.1,
            "contrast": 0.1,
            "saturation": 0.1,
            "hue": 0.03,
            "grayscale_prob": 0.0,
            "blur_prob_global_1": 0.0,
            "blur_prob_global_2": 0.0,
            "blur_prob_local": 0.0,
            "solarize_prob_global_2": 0.0,
            "vertical_flips": True,
            "rot90": True,
        },
    }
)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges. Field names are the keys of ``crops``."""

    color_jitter_prob: float
    brightness: float  # factor in 1 +- this; contrast and saturation likewise
    contrast: float
    saturation: float
    hue: float  # shift in +- this, in turns
    grayscale_prob: float
    blur_prob_global_1: float
    blur_prob_global_2: float
    blur_prob_local: float
    blur_sigma: tuple[float, float]  # in pixels of the largest crop made from a global box
    solarize_prob_global_2: float
    vertical_flips: bool
    rot90: bool
    stain_prob: float
    stain_mean: tuple[float, ...]  # of l, α, β: natural logarithms of values from 0 to 255
    stain_std: tuple[float, ...]
    horizontal_flips: bool
    share_color_jitter: bool

    @classmethod
    def from_config(cls, cfg: Config) -> Augmentation:
        """The preset ``crops.augmentation``, overridden by the keys that are given.

        Colour operations (stain, jitter, grayscale, solarisation) are off when images do not have three channels.
        """
        crops = cfg.crops
        if crops.augmentation not in PRESETS:
            raise ValueError(f"crops.augmentation: {crops.augmentation!r} is not one of {', '.join(PRESETS)}")
        names = [f.name for f in fields(cls)]
        given = {name: getattr(crops, name) for name in names if getattr(crops, name) is not None}
        merged = {**PRESETS[crops.augmentation], **given}
        frozen: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in merged.items()}
        settings = cls(**frozen)
        if cfg.student.in_chans != 3:
            off: dict[str, Any] = {
                "stain_prob": 0.0,
                "color_jitter_prob": 0.0,
                "grayscale_prob": 0.0,
                "solarize_prob_global_2": 0.0,
            }
            settings = replace(settings, **off)
        return settings


@dataclass(frozen=True)
class CropParams:
    """What happens to each of N crops."""

    mirrored: NDArray[np.bool_]  # [N] left to right
    upside_down: NDArray[np.bool_]  # [N] top to bottom
    turns: NDArray[np.int8]  # [N] quarter turns counter-clockwise, 0 to 3
    jittered: NDArray[np.bool_]  # [N]
    factors: NDArray[np.float64]  # [N, 4] in the order of JITTER_OPS
    order: NDArray[np.int8]  # [N, 4] indices into JITTER_OPS
    gray: NDArray[np.bool_]  # [N]
    sigma: NDArray[np.float64]  # [N] of the blur in pixels, 0 where there is none
    solarized: NDArray[np.bool_]  # [N]
    stained: NDArray[np.bool_]  # [N] stain normalised
    stain_target: NDArray[np.float64]  # [N, 6] mean and standard deviation of l, α, β

    def __getitem__(self, rows: slice) -> CropParams:
        return CropParams(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def with_sigma_scaled(self, scale: float) -> CropParams:
        """For a crop of the same box made ``scale`` times as large."""
        return replace(self, sigma=self.sigma * scale)


def crop_params(draws: NDArray[np.float64], settings: Augmentation, geometry: CropGeometry) -> CropParams:
    """Parameters of all crops, stacked crop-major, from uniforms ``[views, B, PHOTOMETRIC_DRAWS]`` in [0, 1).

    Local crops that are windows of a global crop have its orientation. ``share_color_jitter`` gives all crops of an
    image the first one's jitter and grayscale, as upstream, which jitters the image before it is cut.
    """
    geometric, colour, last = draws[..., :3].copy(), draws[..., 3:10], draws[..., 10:]
    if geometry.locals_in_globals:
        for local in range(geometry.local_number):
            geometric[GLOBAL_CROPS + local] = geometric[geometry.parent_of(local)]
    if settings.share_color_jitter:
        colour = np.broadcast_to(colour[:1], colour.shape)
    n_local = geometry.local_number
    blur_prob = [settings.blur_prob_global_1, settings.blur_prob_global_2] + [settings.blur_prob_local] * n_local
    solarize_prob = [0.0, settings.solarize_prob_global_2] + [0.0] * n_local
    low, high = settings.blur_sigma
    orders = colour[..., 5] * len(ORDERS)  # which order, and after the point a uniform number of its own
    blurred = last[..., 0] < np.array(blur_prob)[:, None]  # [views, B]
    return CropParams(
        mirrored=((geometric[..., 0] < 0.5) & settings.horizontal_flips).ravel(),
        upside_down=((geometric[..., 1] < 0.5) & settings.vertical_flips).ravel(),
        turns=(geometric[..., 2] * 4 * settings.rot90).astype(np.int8).ravel(),
        jittered=(colour[..., 0] < settings.color_jitter_prob).ravel(),
        factors=_jitter_factors(colour[..., 1:5], settings).reshape(-1, len(JITTER_OPS)),
        order=ORDERS[orders.astype(np.int64)].reshape(-1, len(JITTER_OPS)),
        gray=(colour[..., 6] < settings.grayscale_prob).ravel(),
        sigma=np.where(blurred, low + (high - low) * last[..., 1], 0.0).ravel(),
        solarized=(last[..., 2] < np.array(solarize_prob)[:, None]).ravel(),
        stained=(orders % 1 < settings.stain_prob).ravel(),
        stain_target=np.tile((*settings.stain_mean, *settings.stain_std), (orders.size, 1)),
    )


def _jitter_factors(draws: NDArray[np.float64], settings: Augmentation) -> NDArray[np.float64]:
    """Factors ``[..., 4]``: brightness, contrast and saturation around 1 and never negative, hue around 0."""
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (settings.brightness, settings.contrast, settings.saturation)]
    low, high = np.array([*ranges, (-settings.hue, settings.hue)]).T
    return low + (high - low) * draws
