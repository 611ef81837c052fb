"""Videos whose frames have masks: DAVIS, folders of frames and masks, and the synthetic films. Read frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinov3.data.decode import Pixels, decode
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.sources.parse import split_options
from dinov3.data.sources.synthetic_video import SyntheticVideo
from dinov3.dense.sets import PICTURES
from dinov3.dense.truth_files import check_same_size, read_mask
from dinov3.system.paths import expanded

VOID = 255  # of masks: counts as background, as in VOC's outlines
SYNTHETIC = "SyntheticVideo"


@dataclass(frozen=True)
class Frame:
    """One picture and its labels, None where no mask says them."""

    name: str
    pixels: Pixels
    labels: Tensor | None  # [H, W] int32


@dataclass(frozen=True)
class Film:
    """Frames in order: files with the masks that some of them have, or a synthetic film."""

    name: str
    files: tuple[tuple[Path, Path | None], ...] = ()
    synthetic: tuple[SyntheticVideo, int] | None = None

    def __len__(self) -> int:
        return self.synthetic[0].length if self.synthetic else len(self.files)

    def frames(self) -> Iterator[Frame | tuple[str, str]]:
        """Frames in order; (name, reason) in the place of one that cannot be read."""
        if self.synthetic:
            films, index = self.synthetic
            for number, (pixels, there) in enumerate(films.frames(index)):
                yield Frame(f"{self.name} frame {number}", pixels, torch.from_numpy(there.astype(np.int32)))
        for image, mask in self.files:
            try:
                yield self._read(image, mask)
            except (BadImage, OSError) as error:
                yield str(image), str(error)

    def _read(self, image: Path, mask: Path | None) -> Frame:
        pixels = decode(image.read_bytes())
        if mask is None:
            return Frame(str(image), pixels, None)
        labels = read_mask(mask)
        check_same_size((pixels.shape[0], pixels.shape[1]), (labels.shape[0], labels.shape[1]))
        labels[labels == VOID] = 0
        return Frame(str(image), pixels, torch.from_numpy(labels))


Lacking = tuple[str, str]  # (name, reason) of what should be there


def open_films(text: str) -> tuple[list[Film], list[Lacking]]:
    """The films, and what is not as it should be: films without a first mask, listed ones that are not there, masks without a
    frame.

    DAVIS (JPEGImages, Annotations), ``frames/`` beside ``masks/`` with or without a folder a video, or
    ``SyntheticVideo:n=4:length=60:size=96:seed=0``. Raises DataError."""
    if text.partition(":")[0] == SYNTHETIC:
        return synthetic_films(text), []
    root = expanded(text)
    frames, masks = _places(root)
    folders = sorted(path for path in frames.iterdir() if path.is_dir()) or [frames]
    wanted = _listed(root)
    films: list[Film] = []
    lacking = [(name, "listed in val.txt, and not there") for name in sorted(wanted - {path.name for path in folders})]
    for folder in folders:
        if wanted and folder.name not in wanted:
            continue
        beside = masks if folder == frames else masks / folder.name
        film = _film(folder, beside, lacking)
        if film is not None:
            films.append(film)
    if not films:
        raise DataError(f"{text}: no video whose first frame has a mask of its name in {masks}")
    return films, lacking


def synthetic_films(text: str) -> list[Film]:
    """The films that ``SyntheticVideo:…`` names."""
    options = Options(text, split_options(text, text[len(SYNTHETIC) :]))
    films = SyntheticVideo(
        n=options.integer("n", 4, 1),
        length=options.integer("length", 60, 2),
        size=options.integer("size", 96, 32),
        seed=options.integer("seed", 0, 0),
        cut=options.choice("cut", ("yes", "no"), "yes") == "yes",
        occlusion=options.choice("occlusion", ("yes", "no"), "yes") == "yes",
    )
    options.finish()
    return [Film(films.name(i), synthetic=(films, i)) for i in range(films.n)]


def _places(root: Path) -> tuple[Path, Path]:
    for images, labels in (("JPEGImages", "Annotations"), ("frames", "masks")):
        for size in ("480p", "Full-Resolution", ""):
            if (root / images / size).is_dir() and (root / labels / size).is_dir():
                return root / images / size, root / labels / size
    raise DataError(f"{root}: neither JPEGImages/ and Annotations/ (DAVIS) nor frames/ and masks/ are there")


def _listed(root: Path) -> set[str]:
    """DAVIS 2017's validation videos when the list is there; else empty: all."""
    path = root / "ImageSets" / "2017" / "val.txt"
    return set(path.read_text(encoding="utf-8", errors="backslashreplace").split()) if path.is_file() else set()


def _film(frames: Path, masks: Path, lacking: list[Lacking]) -> Film | None:
    images = sorted(path for path in frames.iterdir() if path.suffix.lower() in PICTURES)
    with_mask = {path.stem: path for path in masks.glob("*.png")} if masks.is_dir() else {}
    for stem in sorted(with_mask.keys() - {path.stem for path in images}):
        lacking.append((str(with_mask[stem]), "a mask without a frame"))
    if not images or images[0].stem not in with_mask:
        lacking.append((str(frames), "its first frame has no mask" if images else "no frame"))
        return None
    return Film(frames.name, tuple((path, with_mask.get(path.stem)) for path in images))
