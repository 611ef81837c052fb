"""Images in HDF5: ``HDF5:root=FILE|FOLDER|PATTERN[:images=images][:labels=labels][:outside=no|yes]``.

The dataset ``images`` holds encoded files (variable-length uint8, or opaque bytes), or pixels: ``[N, H, W, C]`` or
``[N, H, W]`` uint8. ``labels`` holds a class for each, as a whole number or a name, ``[N]`` or ``[N, 1, …]``; it may be in a
file of its own, ``labels=FILE.h5/NAME``. Links to other files, virtual datasets and external storage are followed below the
folder of the file; ``outside=yes`` allows them everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.config.shown import shown
from dinov3.data.decode import MAX_BYTES
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.storage.extras import need
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.hdf5_objects import Reach, check_stored, dataset_in, names_in, open_file
from dinov3.data.storage.identity import content_of_files, place_of
from dinov3.data.storage.index_cache import Arrays, Index, Listing, stamp
from dinov3.data.storage.labels import classes_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.segments import place
from dinov3.data.storage.shards import shards_of
from dinov3.system.errors import first_line

NAME = "HDF5"
SUFFIXES = (".h5", ".hdf5", ".hdf")
LABELS = "labels"  # where classes are when nobody says so
OTHER_FILE = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?:/(?P<name>.+))?")
OPEN_FILES = 64

log = logging.getLogger(__name__)


def open_source(options: Options) -> HDF5:
    """``HDF5:root=FILE|FOLDER|PATTERN[:images=images][:labels=labels][:outside=no|yes]``."""
    text, images, labels = options.string("root"), options.string("images", "images"), options.string("labels", "")
    outside = options.choice("outside", ("no", "yes"), "no") == "yes"
    options.finish()
    other = OTHER_FILE.fullmatch(labels)
    if other is None:
        return HDF5(shards_of(text, SUFFIXES), images, labels or None, outside=outside)
    (file,) = shards_of(other["file"], SUFFIXES)
    return HDF5(shards_of(text, SUFFIXES), images, other["name"] or None, labels_file=file, outside=outside)


class HDF5(Listed):
    """The images of ``files``, in order. Raises DataError when there are none.

    ``images``, ``labels``: names of the datasets; ``labels`` None: LABELS, if there is such a dataset, or the only one of
    ``labels_file``, which has the classes of all ``files``. ``outside``: other files may be read, wherever they are.
    """

    def __init__(
        self,
        files: list[Path],
        images: str = "images",
        labels: str | None = None,
        *,
        labels_file: Path | None = None,
        outside: bool = False,
    ) -> None:
        self.files, self.images, self.outside = files, images, outside
        wanted = Wanted(images, labels, labels_file, outside)
        key = "\n".join([*map(str, files), *map(str, wanted)])
        self._index = Index.open("hdf5s", key, lambda: listing_of(files, wanted))
        self._opened: Handles[tuple[Any, Any]] = Handles(OPEN_FILES, _close)

    def __len__(self) -> int:
        return int(self._index.arrays["ends"][-1])

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded image, or its pixels ``[H, W, C]``."""
        number, row = place(self._index.arrays["ends"], index)
        try:
            _, dataset = self._opened.get(number, lambda: self._open(self.files[number]))
            value = dataset[row]
        except (  # a file that was changed, a missing decompressor
            *(DataError, KeyError, IndexError, RuntimeError, ValueError, MemoryError),
        ) as error:
            raise BadImage(f"{type(error).__name__}: {error}") from error
        if dataset.ndim == 1:
            return bytes(value.tobytes())
        pixels: NDArray[np.uint8] = value if value.ndim == 3 else value[:, :, None]
        return pixels

    def _open(self, path: Path) -> tuple[Any, Any]:
        file = open_file(path)
        try:
            return file, images_in(file, path, self.images, reach_of(path, outside=self.outside))
        except DataError:
            file.close()
            raise

    def _content(self) -> str:
        return content_of_files(self.files, self.images)

    def _place(self) -> str:
        return place_of(self.files)

    def name(self, index: int) -> str:
        """File, dataset and row."""
        number, row = place(self._index.arrays["ends"], index)
        return shown(f"{self.files[number]}/{self.images}/{row}")


def _close(opened: tuple[Any, Any]) -> None:
    file, dataset = opened
    if dataset.file != file:  # at the end of a link
        dataset.file.close()
    file.close()


class Wanted(NamedTuple):
    """What is looked for in the files."""

    images: str
    labels: str | None
    labels_file: Path | None
    outside: bool


def reach_of(path: Path, *, outside: bool) -> Reach:
    """Where ``path`` may lead."""
    return Reach(None if outside else path.absolute().parent)


def listing_of(files: list[Path], wanted: Wanted) -> Listing:
    """Number and classes of the images in ``files``. Raises DataError."""
    stamps = {str(path): stamp(path) for path in [*files, *[p for p in [wanted.labels_file] if p]]}
    counts: list[int] = []
    classes: list[object] = []
    shapes: list[object] = []
    for path in files:
        with opened(path) as file:
            dataset = images_in(file, path, wanted.images, reach_of(path, outside=wanted.outside))
            counts.append(len(dataset))
            shapes.append([list(dataset.shape), str(dataset.dtype), path.stat().st_size])
            if wanted.labels_file is None:
                classes += _labels_beside(file, path, wanted, len(dataset))
    if not sum(counts):
        raise DataError(f"{files[0]} and {len(files) - 1} other files: contain no images")
    if wanted.labels_file is not None:
        classes = _labels_apart(wanted.labels_file, wanted, sum(counts))
    log.info("%d files: %d images", len(files), len(classes))
    numbers, names = classes_of(classes)
    arrays: Arrays = {"ends": np.cumsum(counts, dtype=np.int64), "labels": numbers}
    fingerprint = hashlib.blake2b(json.dumps([wanted.images, shapes]).encode(), digest_size=16).hexdigest()
    return Listing(arrays, {"fingerprint": fingerprint, "classes": names}, stamps)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file at ``path``; whatever the library finds wrong with it is one DataError."""
    try:
        with open_file(path) as file:
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        reason = first_line(error)
        raise DataError(f"{path}: is not an HDF5 file that can be read: {reason}") from None


def images_in(file: Any, path: Path, name: str, reach: Reach) -> Any:
    """The dataset of images, checked before anything of it is read. Raises DataError."""
    dataset = dataset_in(file, path, name, "images", reach)
    refuse_unless_images(dataset, path)
    check_stored(dataset, Path(dataset.file.filename))
    return dataset


def refuse_unless_images(dataset: Any, path: Path) -> None:
    """Raise DataError unless these are encoded files or uint8 pixels with the channels last, of a size that is read."""
    kind, shape = dataset.dtype, dataset.shape
    where = f"{path}: dataset {dataset.name} of {kind} {list(shape)}"
    if dataset.ndim == 1:
        inner = need("h5py").check_vlen_dtype(kind)
        if not (kind.kind == "V" or (inner is not None and np.dtype(inner) == np.uint8)):
            raise DataError(f"{where}: encoded images are variable-length uint8 or opaque bytes")
    elif dataset.ndim not in (3, 4) or kind != np.uint8:
        raise DataError(f"{where}: pixels are uint8 [N, H, W, C] or [N, H, W]")
    elif dataset.ndim == 4 and shape[1] <= 4 < shape[3]:
        raise DataError(f"{where}: looks like [N, C, H, W]; channels come last, [N, H, W, C]")
    elif math.prod(shape[1:]) > MAX_BYTES:
        raise DataError(f"{where}: an image has more than {MAX_BYTES} values")


def _labels_beside(file: Any, path: Path, wanted: Wanted, n: int) -> list[object]:
    if wanted.labels is None and LABELS not in file:
        return [None] * n
    dataset = dataset_in(file, path, wanted.labels or LABELS, "labels", reach_of(path, outside=wanted.outside))
    return values_of(dataset, path, n)


def _labels_apart(path: Path, wanted: Wanted, n: int) -> list[object]:
    with opened(path) as file:
        names = names_in(file)
        if wanted.labels is None and len(names) != 1:
            raise DataError(f"{path}: there is {', '.join(names) or 'no dataset'}: say labels={path}/NAME")
        name = wanted.labels or names[0]
        return values_of(dataset_in(file, path, name, "labels", reach_of(path, outside=wanted.outside)), path, n)


def values_of(dataset: Any, path: Path, n: int) -> list[object]:
    """``n`` classes: numbers or text, one a row. Shape and type are looked at before anything is read."""
    where = f"{path}: dataset {dataset.name}"
    if dataset.size != n or not dataset.shape or dataset.shape[0] != n:
        raise DataError(f"{where} has shape {list(dataset.shape)}, there are {n} images")
    if dataset.dtype.kind not in "iufbS" and need("h5py").check_string_dtype(dataset.dtype) is None:
        raise DataError(f"{where} holds {dataset.dtype}: classes are numbers or names")
    check_stored(dataset, Path(dataset.file.filename))
    values: list[object] = dataset[...].reshape(-1).tolist()
    return values
