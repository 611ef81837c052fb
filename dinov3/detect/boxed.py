"""Images with their boxes, opened and checked before anything is built.

Folders: COCO's own (``train2017/``, ``val2017/``, ``annotations/instances_train2017.json``, …); the same with parts called
``training`` and ``validation``, ``train`` and ``val`` (``valid``, ``test``), whose JSON may also stand in the part as
``annotations.json``; or ``images/`` beside one JSON, where every fifth image is for validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dinov3.data.decode import Pixels, Reading, fit_channels, read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.source import Source
from dinov3.data.sources.synthetic import SHAPES, Synthetic
from dinov3.data.sources.world import OBJECT
from dinov3.dense.sets import HOLD_OUT, SPLITS
from dinov3.detect.boxes import Boxes, boxes_of
from dinov3.detect.coco import CocoFile
from dinov3.detect.config import DetectConfig
from dinov3.finetune.headed.over import check_sample
from dinov3.system.paths import expanded

PARTS = (("train2017", "val2017"), *SPLITS)  # COCO's own, then every usual name


class BoxSource(Source, Protocol):
    """A source whose images have boxes."""

    @property
    def classes(self) -> Sequence[str]: ...

    def boxes(self, index: int) -> Boxes:
        """Of one image. Raises BadImage."""
        ...

    def check_size(self, index: int, height: int, width: int) -> None:
        """Raises BadImage when the image has not the size that its boxes are of."""
        ...


class SyntheticBoxes:
    """The synthetic landscapes with the box of their object; the classes are its shapes."""

    def __init__(self, source: Synthetic) -> None:
        self.source = source
        self.read, self.label, self.name = source.read, source.label, source.name
        self.fingerprint, self.version, self.identity = source.fingerprint, source.version, source.identity
        self.classes = list(SHAPES)[: source.classes]

    def __len__(self) -> int:
        return len(self.source)

    def boxes(self, index: int) -> Boxes:
        """The smallest box around the object's pixels."""
        segments = self.source.segmentation(index)
        rows, columns = np.nonzero(segments >= OBJECT)
        if not len(rows):
            return boxes_of([], [], [], [])
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        shape = int(segments[rows[0], columns[0]]) - OBJECT
        return boxes_of([[float(number) for number in corners]], [shape], [False], [float(len(rows))])

    def check_size(self, index: int, height: int, width: int) -> None:
        """They are made together."""


@dataclass(frozen=True)
class BoxedSet:
    """Some images of a source, and how they are read."""

    source: BoxSource
    indices: Sequence[int]
    reading: Reading

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> list[str]:
        return list(self.source.classes)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def read(self, index: int, channels: int) -> tuple[Pixels, Boxes]:
        """(pixels ``[H, W, C]``, boxes). Raises BadImage, also for boxes of another image; DataError for channels the backbone
        does not take."""
        pixels, boxes = self._both(index)
        return fit_channels(pixels, channels), boxes

    def check(self, index: int) -> None:
        """Raises BadImage for what ``read`` would not take."""
        self._both(index)

    def _both(self, index: int) -> tuple[Pixels, Boxes]:
        at = self.indices[index]
        boxes = self.source.boxes(at)
        pixels = read_image(self.source, at, self.reading)
        self.source.check_size(at, pixels.shape[0], pixels.shape[1])
        return pixels, boxes

    def content(self) -> str:
        """What identifies the images and their boxes."""
        return f"{self.source.identity().content}/boxes-{len(self)}-of-{len(self.source)}"


def open_boxed(cfg: DetectConfig) -> tuple[BoxedSet, BoxedSet]:
    """(training, validation) of ``train.dataset_path``.

    A sample of both is read: DataError when more of it is unusable than ``data.max_bad_frac`` allows.
    """
    parts = open_parts(cfg.train.dataset_path, Reading.from_config(cfg))
    for part in parts:
        check_sample(len(part), part.check, part.name, cfg.train.dataset_path, cfg.data.max_bad_frac)
    if not any(_counts(parts[1], index) for index in range(len(parts[1]))):
        raise DataError(f"{cfg.train.dataset_path}: no box in the validation part: mean average precision needs some")
    return parts


def _counts(part: BoxedSet, index: int) -> bool:
    try:
        return bool((~part.source.boxes(part.indices[index]).ignored).any())
    except BadImage:
        return False


def open_parts(data: str, reading: Reading, classes: Sequence[str] | None = None) -> tuple[BoxedSet, BoxedSet]:
    """(training part, validation part) of ``data``; ``classes``: the names in the order of their numbers, when they are known.

    Raises DataError.
    """
    root = expanded(data)
    if not root.is_dir():
        source = parse_dataset(data)
        if not isinstance(source, Synthetic):
            raise DataError(f"{data}: a data set without boxes: give a folder with COCO annotations or Synthetic:n=200")
        return _held_out(SyntheticBoxes(source), data, reading)
    for names in PARTS:
        found = [_part(root, name) for name in names]
        if found[0] is not None and found[1] is not None:
            first = CocoFile(*found[0], classes)
            second = CocoFile(*found[1], first.classes)
            return BoxedSet(first, range(len(first)), reading), BoxedSet(second, range(len(second)), reading)
    files = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    if len(files) != 1:
        raise DataError(
            f"{data}: {len(files)} JSON files here and in annotations/, and no training and validation part: one file of "
            "COCO annotations is expected"
        )
    images = root / "images"
    return _held_out(CocoFile(files[0], images if images.is_dir() else root, classes), data, reading)


def _part(root: Path, name: str) -> tuple[Path, Path] | None:
    """(annotations, folder of images) of one part."""
    files = (
        root / "annotations" / f"instances_{name}.json",
        root / "annotations" / f"{name}.json",
        root / f"{name}.json",
        root / name / "annotations.json",
        root / name / "_annotations.coco.json",
    )
    folders = (root / name / "images", root / "images" / name, root / name, root / "images")
    file = next((file for file in files if file.is_file()), None)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    return None if file is None or folder is None else (file, folder)


def _held_out(source: BoxSource, data: str, reading: Reading) -> tuple[BoxedSet, BoxedSet]:
    if len(source) < HOLD_OUT:
        raise DataError(f"{data}: {len(source)} images: at least {HOLD_OUT}, or give a training and a validation part")
    test = [i for i in range(len(source)) if i % HOLD_OUT == HOLD_OUT - 1]
    train = [i for i in range(len(source)) if i % HOLD_OUT != HOLD_OUT - 1]
    return BoxedSet(source, train, reading), BoxedSet(source, test, reading)
