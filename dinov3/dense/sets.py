"""Images with a truth for each pixel: pairs of files in folders, and the synthetic landscapes.

Folders: ``images/`` beside ``masks/`` (or ``annotations/``, ``labels/``; ``depth/``, ``depths/``), paired by their place below
these without the ending. With ``training`` (or ``train``) and ``validation`` (``valid``, ``val``, ``test``) as subfolders of both, or
around them, these are the two parts; else every fifth pair is for the test.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import get_ident
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dinov3.data.decode import USUAL, Pixels, Reading, read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.source import Source
from dinov3.data.sources.synthetic import Synthetic
from dinov3.data.sources.world import Scene
from dinov3.data.storage.identity import VERSION, Identity
from dinov3.dense.truth_files import check_same_size, read_depth, read_mask
from dinov3.system.paths import expanded

IMAGES = ("images", "JPEGImages", "rgb")
TRUTHS = {"mask": ("masks", "annotations", "labels", "SegmentationClass"), "depth": ("depth", "depths")}
TRAINING, TESTED = ("training", "train"), ("validation", "valid", "val", "test")
SPLITS = tuple(itertools.product(TRAINING, TESTED))
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
HOLD_OUT = 5
DEPTH_UNITS = 1000.0  # a metre: millimetres, as NYU's files have it


class DenseSet(Source, Protocol):
    """A source whose images have a truth ``[H, W]``: int32 class numbers, or float32 depth."""

    def truth(self, index: int) -> NDArray[np.generic]:
        """Of one image. Raises BadImage."""
        ...


class PairedFiles:
    """Images and their truths in files."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], kind: str, units: float = DEPTH_UNITS) -> None:
        self.pairs, self.kind, self.units = list(pairs), kind, units

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> bytes:
        """The image file's bytes."""
        return self.pairs[index][0].read_bytes()

    def label(self, index: int) -> int | None:
        """None: the classes are in the masks."""
        return None

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.pairs[index][0])

    def truth(self, index: int) -> NDArray[np.generic]:
        """Class numbers, or metres."""
        path = self.pairs[index][1]
        return read_mask(path) if self.kind == "mask" else read_depth(path, self.units)

    def fingerprint(self) -> str:
        """A hash of the images' names and sizes."""
        return _digest("pairs", [f"{image.name} {image.stat().st_size}" for image, _ in self.pairs])

    def identity(self) -> Identity:
        """Names and sizes of the images, and their folder."""
        return Identity(VERSION + self.fingerprint(), str(self.pairs[0][0].parent), self.fingerprint())

    def version(self) -> str:
        """A hash of the images' places and times of writing; the truth changes no feature."""
        return _digest("pairs", [f"{image} {image.stat().st_mtime_ns}" for image, _ in self.pairs])


class SyntheticTruth:
    """The synthetic landscapes with their segmentation or depth: one is made for its picture, and the truth kept until it
    is asked for, by the same thread and at once."""

    def __init__(self, source: Synthetic, kind: str) -> None:
        self.source, self.kind = source, kind
        self.label, self.name = source.label, source.name
        self.fingerprint, self.version, self.identity = source.fingerprint, source.version, source.identity
        self._kept: dict[int, tuple[int, NDArray[np.generic]]] = {}  # thread -> index and truth of its last picture

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The picture ``[size, size, 3]``."""
        scene = self.source.scene(index)
        self._kept[get_ident()] = index, self._of(scene)
        return scene.image

    def truth(self, index: int) -> NDArray[np.generic]:
        """15 classes, or the distance: 1 at the bottom edge, 100 for the sky."""
        of, truth = self._kept.pop(get_ident(), (None, None))  # given once: whoever has it may change it
        return truth if of == index and truth is not None else self._of(self.source.scene(index))

    def _of(self, scene: Scene) -> NDArray[np.generic]:
        return scene.segmentation.astype(np.int32) if self.kind == "mask" else scene.depth


class Chosen:
    """Some images of a set."""

    def __init__(self, whole: DenseSet, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """As the whole set."""
        return self.whole.read(self.indices[index])

    def label(self, index: int) -> int | None:
        """As the whole set."""
        return self.whole.label(self.indices[index])

    def name(self, index: int) -> str:
        """As the whole set."""
        return self.whole.name(self.indices[index])

    def truth(self, index: int) -> NDArray[np.generic]:
        """As the whole set."""
        return self.whole.truth(self.indices[index])

    def fingerprint(self) -> str:
        """The whole set's, and which images."""
        return f"{self.whole.fingerprint()}-{_digest('chosen', map(str, self.indices))}"

    def identity(self) -> Identity:
        """The whole set's, and which images."""
        return Identity(VERSION + self.fingerprint(), self.whole.identity().place, self.fingerprint())

    def version(self) -> str:
        """The whole set's, and which images."""
        return f"{self.whole.version()}-{_digest('chosen', map(str, self.indices))}"


class Mirrored:
    """The images of a set, mirrored left to right, for features of the other view."""

    def __init__(self, whole: DenseSet) -> None:
        self.whole = whole
        self.label, self.name = whole.label, whole.name

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels ``[H, W, C]``."""
        return np.ascontiguousarray(read_image(self.whole, index)[:, ::-1])

    def fingerprint(self) -> str:
        """The whole set's, and that it is mirrored."""
        return f"{self.whole.fingerprint()}-mirrored"

    def identity(self) -> Identity:
        """The whole set's, and that it is mirrored."""
        return Identity(VERSION + self.fingerprint(), self.whole.identity().place, self.fingerprint())

    def version(self) -> str:
        """The whole set's, and that it is mirrored."""
        return f"{self.whole.version()}-mirrored"


def few(dense: DenseSet, most: int) -> DenseSet:
    """At most ``most`` images of a set, evenly spread; 0: all."""
    if not most or len(dense) <= most:
        return dense
    return Chosen(dense, np.linspace(0, len(dense) - 1, most).astype(int).tolist())


def images_of(data: str) -> Source:
    """Images alone: those of a folder that has truths beside them, or what ``train.dataset_path`` may name."""
    root = expanded(data)
    for place in (root, *(root / test for _, test in SPLITS)):
        if any(_folders(place, kind, "") for kind in TRUTHS):
            return parse_dataset(str(next(place / name for name in IMAGES if (place / name).is_dir())))
    return parse_dataset(data)


def read_both(dense: DenseSet, index: int, reading: Reading = USUAL) -> tuple[Pixels, NDArray[np.generic]]:
    """(pixels ``[H, W, C]``, truth ``[H, W]``). Raises BadImage, also when they differ in size."""
    pixels = read_image(dense, index, reading)
    try:
        truth = dense.truth(index)
    except OSError as error:
        raise BadImage(f"its truth: {error.strerror or error}") from error
    check_same_size((pixels.shape[0], pixels.shape[1]), (truth.shape[0], truth.shape[1]))
    return pixels, truth


def read_usable(dense: DenseSet, index: int, reading: Reading) -> tuple[Pixels, NDArray[np.generic]]:
    """``read_both``, where a file that the system does not give is a BadImage too."""
    try:
        return read_both(dense, index, reading)
    except OSError as error:
        raise BadImage(f"{type(error).__name__}: {error.strerror or error}") from error


def digest_of_truths(dense: DenseSet, indices: Sequence[int], form: str) -> str:
    """Of the truths of these images, as numbers of the numpy type ``form``; those that cannot be read are one and the same."""
    seen = hashlib.blake2b(digest_size=8)
    for index in indices:
        try:
            seen.update(np.ascontiguousarray(dense.truth(index).astype(form)).tobytes())
        except (BadImage, OSError):
            seen.update(b"unreadable")
    return seen.hexdigest()


def open_parts(data: str, kind: str, *, units: float = DEPTH_UNITS) -> tuple[DenseSet, DenseSet]:
    """(training part, test part) of ``data``: a folder, or ``Synthetic:n=…``; kind is mask or depth. Raises DataError."""
    root = expanded(data)
    if not root.is_dir():
        source = parse_dataset(data)
        if not isinstance(source, Synthetic):
            raise DataError(f"{data}: a data set without a truth for each pixel: give a folder or Synthetic:n=200")
        return held_out(SyntheticTruth(source, kind), data)
    for train, test in SPLITS:
        for first, second in (
            (_folders(root / train, kind, ""), _folders(root / test, kind, "")),
            (_folders(root, kind, train), _folders(root, kind, test)),
        ):
            if first and second:
                return pairs_of(*first, kind, units), pairs_of(*second, kind, units)
    whole = _folders(root, kind, "")
    if whole is None:
        raise DataError(
            f"{data}: no folder {IMAGES[0]} beside one of {', '.join(TRUTHS[kind])}: put images and {kind}s there"
        )
    if lone := next((part for part in (*TRAINING, *TESTED) if (whole[0] / part).is_dir()), None):
        other = TESTED[0] if lone in TRAINING else TRAINING[0]
        raise DataError(
            f"{whole[0] / lone}: a part without another: {whole[0].name} and {whole[1].name} both need {other}, too"
        )
    return held_out(pairs_of(*whole, kind, units), data)


def held_out(dense: DenseSet, name: str) -> tuple[DenseSet, DenseSet]:
    """Every fifth image is for the test."""
    if len(dense) < HOLD_OUT:
        raise DataError(f"{name}: {len(dense)} images: at least {HOLD_OUT}, or give a training and a validation part")
    test = [i for i in range(len(dense)) if i % HOLD_OUT == HOLD_OUT - 1]
    train = [i for i in range(len(dense)) if i % HOLD_OUT != HOLD_OUT - 1]
    return Chosen(dense, train), Chosen(dense, test)


def pairs_of(images: Path, truths: Path, kind: str, units: float) -> PairedFiles:
    """Files of the same place and name without their ending, in order; of names alone where each occurs once.

    Raises DataError for none, for an image without a truth, and for a name that two files have.
    """
    pictures, found = _by_place(images, PICTURES), _by_place(truths, (".png", ".tif", ".tiff"))
    if not pictures.keys() & found.keys():
        pictures, found = _by_name(pictures), _by_name(found)
    lacking = [path for name, path in pictures.items() if name not in found]
    if not pictures or len(lacking) == len(pictures):
        raise DataError(f"{images}: no image with a {kind} of its name in {truths}")
    if lacking:
        raise DataError(f"{lacking[0]}: no {kind} {lacking[0].stem}.png in {truths} ({len(lacking)} images have none)")
    return PairedFiles([(path, found[name]) for name, path in pictures.items()], kind, units)


def _by_place(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Files below ``folder`` by their place in it, without the ending, in order."""
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in endings)
    return _distinct((path.relative_to(folder).with_suffix("").as_posix(), path) for path in files)


def _by_name(by_place: dict[str, Path]) -> dict[str, Path]:
    return _distinct((path.stem, path) for path in by_place.values())


def _distinct(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """DataError for a name that two files have: either could be the other's truth."""
    named: dict[str, Path] = {}
    for name, path in files:
        if name in named:
            raise DataError(f"{path}: has the name of {named[name]}: which belongs to which cannot be told; rename one")
        named[name] = path
    return named


def _folders(root: Path, kind: str, split: str) -> tuple[Path, Path] | None:
    places = [[root / name / split for name in names] for names in (IMAGES, TRUTHS[kind])]
    found = [next((place for place in each if place.is_dir()), None) for each in places]
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _digest(kind: str, lines: Sequence[str] | map[str]) -> str:
    return f"{kind}-{hashlib.sha256(chr(10).join(lines).encode(errors='surrogatepass')).hexdigest()[:16]}"
