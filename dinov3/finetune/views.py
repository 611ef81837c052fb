"""Images as a classifier sees them: cut, resized, changed, normalised; the same code for training and for scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS, PRESETS, Augmentation, CropParams, crop_params
from dinov3.data.augment.photometric import Normalization, render
from dinov3.data.crops import BOX_DRAWS, GLOBAL_CROPS, Box, CropGeometry, cut_and_resize, random_resized_box
from dinov3.data.decode import Reading, fit_channels, read_image
from dinov3.data.randomness import generator
from dinov3.data.sources import Source

DRAWS = BOX_DRAWS + PHOTOMETRIC_DRAWS  # uniform numbers an image may use
NOTHING: dict[str, Any] = {
    **PRESETS["histology"],
    **dict.fromkeys(("color_jitter_prob", "brightness", "contrast", "saturation", "hue"), 0.0),
    **{"vertical_flips": False, "rot90": False, "horizontal_flips": False, "share_color_jitter": False},
}
# "photographs" moves colours as much as "histology" does, and never turns: what is up matters there.
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "flips": {"horizontal_flips": True},
    "photographs": {
        **{name: PRESETS["histology"][name] for name in ("brightness", "contrast", "saturation", "hue")},
        "horizontal_flips": True,
        "color_jitter_prob": 0.8,
    },
    "histology": {**PRESETS["histology"], "horizontal_flips": True},
}


@dataclass(frozen=True)
class Views:
    """How images are prepared. ``size``: px a side; ``scale``: least and largest share that is cut out in training."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reading: Reading
    preset: str = "none"
    scale: tuple[float, float] = (1.0, 1.0)
    stain: bool = False

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def changes(self) -> bool:
        """Whether an image looks different each time it is trained on."""
        return self.preset != "none" or self.scale != (1.0, 1.0)

    def settled(self) -> Views:
        """The same without what is drawn: how images are scored."""
        return Views(self.size, self.mean, self.std, self.reading, stain=self.stain)

    def draws(self, seed: int, position: int) -> NDArray[np.float64]:
        """Uniforms ``[DRAWS]`` of the sample at this position of the stream."""
        return generator(seed, "finetune view", position).random(DRAWS)

    def cut(self, source: Source, index: int, draws: NDArray[np.float64] | None) -> Tensor:
        """The image as ``[size, size, C]`` uint8. Raises BadImage; DataError for channels the backbone does not take."""
        pixels = fit_channels(read_image(source, index, self.reading), self.channels)
        image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # [H, W, C]
        height, width = image.shape[:2]
        whole = draws is None or self.scale == (1.0, 1.0)
        box = (
            Box(0, 0, height, width)
            if whole
            else random_resized_box([float(x) for x in draws[:BOX_DRAWS]], height, width, self.scale)  # type: ignore[index]
        )
        out = torch.empty(self.size, self.size, self.channels, dtype=torch.uint8)
        cut_and_resize(image, box, out)
        return out

    def finish(self, cut: Tensor, draws: NDArray[np.float64] | None) -> Tensor:
        """``cut [N, size, size, C]`` uint8 as the backbone takes it, ``[N, C, size, size]`` float32, on its device.

        ``draws [N, DRAWS]`` decide flips, turns and colours; None: no image is changed.
        """
        normalization = Normalization(self.mean, self.std, torch.float32, cut.device)
        return render(cut, self._params(len(cut), draws), normalization)[0]

    def _params(self, n: int, draws: NDArray[np.float64] | None) -> CropParams:
        chosen = NOTHING | (CHANGES[self.preset] if draws is not None else {})
        chosen |= {"stain_prob": float(self.stain)}
        if self.channels != 3:
            chosen |= {"stain_prob": 0.0, "color_jitter_prob": 0.0}
        geometry = CropGeometry(self.size, (1, 1), self.size, (1, 1), 0, None, False, self.size, self.channels)
        used = np.full((n, PHOTOMETRIC_DRAWS), 0.5) if draws is None else draws[:, BOX_DRAWS:]
        both = np.broadcast_to(used, (GLOBAL_CROPS, n, PHOTOMETRIC_DRAWS))  # one view; the second is not looked at
        return crop_params(both, Augmentation(**chosen), geometry)[:n]
