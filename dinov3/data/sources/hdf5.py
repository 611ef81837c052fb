"""Images in HDF5: ``HDF5:root=FILE|FOLDER|PATTERN[:images=images][:labels=labels]``.

The dataset ``images`` holds encoded files (variable-length uint8, or opaque bytes), or pixels: ``[N, H, W, C]`` or
``[N, H, W]`` uint8. ``labels`` holds a class for each, as a whole number or a name.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.storage.extras import need
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.index_cache import Arrays, Index, Listing, stamp
from dinov3.data.storage.labels import numbered
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.segments import place
from dinov3.data.storage.shards import shards_of

NAME = "HDF5"
SUFFIXES = (".h5", ".hdf5", ".hdf")
LABELS = "labels"  # where classes are when nobody says so
OPEN_FILES = 64

log = logging.getLogger(__name__)


def open_source(options: Options) -> HDF5:
    """``HDF5:root=FILE|FOLDER|PATTERN[:images=images][:labels=labels]``."""
    text, images, labels = options.string("root"), options.string("images", "images"), options.string("labels", "")
    options.finish()
    return HDF5(shards_of(text, SUFFIXES), images, labels or None)


class HDF5(Listed):
    """The images of ``files``, in order. Raises DataError when there are none.

    ``images``, ``labels``: names of the datasets; ``labels`` None: LABELS, if there is such a dataset.
    """

    def __init__(self, files: list[Path], images: str = "images", labels: str | None = None) -> None:
        self.files, self.images = files, images
        key = "\n".join([*map(str, files), images, str(labels)])
        self._index = Index.open("hdf5s", key, lambda: listing_of(files, images, labels))
        self._opened: Handles[Any] = Handles(OPEN_FILES, _close)

    def __len__(self) -> int:
        return int(self._index.arrays["ends"][-1])

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded image, or its pixels ``[H, W, C]``."""
        number, row = place(self._index.arrays["ends"], index)
        try:
            dataset = self._opened.get(number, lambda: open_file(self.files[number])[self.images])
            value = dataset[row]
        except (
            KeyError,
            IndexError,
            RuntimeError,
            ValueError,
        ) as error:  # a file that was changed, a missing decompressor
            raise BadImage(f"{type(error).__name__}: {error}") from error
        if dataset.ndim == 1:
            return bytes(value.tobytes())
        pixels: NDArray[np.uint8] = value if value.ndim == 3 else value[:, :, None]
        return pixels

    def name(self, index: int) -> str:
        """File, dataset and row."""
        number, row = place(self._index.arrays["ends"], index)
        return f"{self.files[number]}/{self.images}/{row}"


def open_file(path: Path) -> Any:
    """For reading. A lock is asked for where the file system has them, so that a file being written is refused."""
    return need("h5py").File(path, "r", locking="best-effort")


def _close(dataset: Any) -> None:
    dataset.file.close()


def listing_of(files: list[Path], images: str, labels: str | None) -> Listing:
    """Number and classes of the images in ``files``. Raises DataError."""
    stamps = {str(path): stamp(path) for path in files}
    counts: list[int] = []
    classes: list[object] = []
    shapes: list[object] = []
    for path in files:
        try:
            with open_file(path) as file:
                dataset = dataset_of(file, images, "images", path)
                refuse_unless_images(dataset, path)
                counts.append(len(dataset))
                classes += _labels_of(file, labels, len(dataset), path)
                shapes.append([list(dataset.shape), str(dataset.dtype), path.stat().st_size])
        except OSError as error:
            raise DataError(f"{path}: is not an HDF5 file that can be read: {str(error).splitlines()[0]}") from None
    if not classes:
        raise DataError(f"{files[0]} and {len(files) - 1} other files: contain no images")
    log.info("%d files: %d images", len(files), len(classes))
    arrays: Arrays = {"ends": np.cumsum(counts, dtype=np.int64), "labels": numbered(classes)}
    fingerprint = hashlib.blake2b(json.dumps([images, shapes]).encode(), digest_size=16).hexdigest()
    return Listing(arrays, {"fingerprint": fingerprint}, stamps)


def dataset_of(file: Any, name: str, option: str, path: Path) -> Any:
    """The dataset of that name. Raises DataError that says which there are."""
    dataset = file.get(name)
    if not hasattr(dataset, "shape"):
        found: list[str] = []
        file.visititems(lambda key, value: found.append(key) if hasattr(value, "shape") else None)
        raise DataError(
            f"{path}: there is no dataset {name}; there is {', '.join(found[:8]) or 'none'}: say {option}=NAME"
        )
    return dataset


def refuse_unless_images(dataset: Any, path: Path) -> None:
    """Raise DataError unless these are encoded files or uint8 pixels with the channels last."""
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


def _labels_of(file: Any, labels: str | None, n: int, path: Path) -> list[object]:
    if labels is None and LABELS not in file:
        return [None] * n
    dataset = dataset_of(file, labels or LABELS, "labels", path)
    values: list[object] = dataset[:].tolist() if dataset.ndim == 1 else []
    if len(values) != n:
        raise DataError(f"{path}: dataset {dataset.name} has shape {list(dataset.shape)}, there are {n} images")
    return values
