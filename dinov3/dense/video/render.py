"""A video of what was found: frames with labels over them, into an .mp4 (PyAV) or a folder of PNGs."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.storage.extras import need
from dinov3.dense.palette import class_colour
from dinov3.system.files import replacing

OPACITY = 0.55
ENCODERS = ("libx264", "mpeg4")  # the first that this PyAV has


class Screen(Protocol):
    """Where frames are shown."""

    def show(self, pixels: Pixels) -> None:
        """One more frame ``[H, W, 3]``."""
        ...

    def close(self) -> Path:
        """No more frames; where they are."""
        ...


class FolderScreen:
    """``FOLDER/000000.png`` and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def show(self, pixels: Pixels) -> None:
        """One more frame."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{self.count:06d}.png") as fresh:
            Image.fromarray(pixels).save(fresh, "PNG")
        self.count += 1

    def close(self) -> Path:
        """The folder."""
        return self.folder


class FileScreen:
    """One .mp4, under its name only when it is whole. All frames get the size of the first, cut to even sides."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._av = path, need("av")
        self._rate = Fraction(rate).limit_denominator(1000)
        self._whole = ExitStack()  # closed when all frames are there
        self._container: Any = None
        self._stream: Any = None

    def show(self, pixels: Pixels) -> None:
        """One more frame."""
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2  # yuv420p halves both
        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._whole.enter_context(replacing(self.path))
            self._container = self._av.open(str(fresh), "w", format="mp4")
            codec = next(name for name in ENCODERS if name in self._av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> Path:
        """The file. Of no frames there is none."""
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._whole.close()
        return self.path


def overlaid(pixels: Pixels, labels: Tensor) -> Pixels:
    """``pixels [H, W, 3]`` with each label of ``labels [H, W]`` but 0 as a tint."""
    found = pixels.astype(np.float32)
    for number in torch.unique(labels).tolist():
        if number != 0:
            there = (labels == number).cpu().numpy()
            colour = np.array(class_colour(int(number)), dtype=np.float32) * 255
            found[there] = (1 - OPACITY) * found[there] + OPACITY * colour
    return found.round().clip(0, 255).astype(np.uint8)


def save_mask(labels: Tensor, path: Path) -> None:
    """A palette PNG whose indices are the labels (0 to 255), whole or not there."""
    image = Image.fromarray(labels.cpu().numpy().astype(np.uint8), mode="P")
    colours = [(0.0, 0.0, 0.0), *(class_colour(i) for i in range(1, 256))]
    image.putpalette([round(255 * channel) for colour in colours for channel in colour])
    with replacing(path) as fresh:
        image.save(fresh, "PNG")
