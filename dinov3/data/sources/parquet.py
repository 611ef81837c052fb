"""Images in Parquet files: ``Parquet:root=FILE|FOLDER|PATTERN[:image=image][:label=label]``.

Columns are laid out as Hugging Face does. Parquet can only be read by the row group: an image costs the decoding of its
whole group, so small groups are fast and large ones are slow in random order.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.config.shown import shown
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.options import Options
from dinov3.data.storage.arrow import bytes_of, image_leaf, optional_column_of
from dinov3.data.storage.extras import need
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.identity import content_of_files, place_of
from dinov3.data.storage.index_cache import Arrays, Index, Listing, stamp
from dinov3.data.storage.labels import classes_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.segments import place
from dinov3.data.storage.shards import shards_of
from dinov3.system.errors import first_line

NAME = "Parquet"
OPEN_FILES = 64
CACHE_BYTES = 64 * 2**20  # of decoded row groups a process keeps, but at least one group
SLOW_BYTES = 2 * 2**20  # of a row group: decoding it takes 1.5 ms, as long as cutting the crops of an image

log = logging.getLogger(__name__)


def open_source(options: Options) -> Parquet:
    """``Parquet:root=FILE|FOLDER|PATTERN[:image=image][:label=label]``."""
    text, image, label = options.string("root"), options.string("image", "image"), options.string("label", "")
    options.finish()
    return Parquet(shards_of(text, (".parquet",)), image, label or None)


class Parquet(Listed):
    """The images of ``files``, in order. Raises DataError when there are none.

    ``image``: the column of images; ``label``: that of classes, None: ``label`` if there is one.
    """

    def __init__(self, files: list[Path], image: str = "image", label: str | None = None) -> None:
        self.files, self.image = files, image
        key = "\n".join([*map(str, files), image, str(label)])
        self._index = Index.open("parquets", key, lambda: listing_of(files, image, label))
        size, rows = self._index.facts["group_bytes"], self._index.facts["group_rows"]
        if size > SLOW_BYTES and rows > 1:
            log.warning(
                "%s: an image is read by decoding its row group of up to %d images, %.0f MB, which is slow in random "
                "order: write smaller row groups, or tar shards, or use save_to_disk of Hugging Face's datasets",
                *(files[0], rows, size / 2**20),
            )
        self._opened: Handles[Any] = Handles(OPEN_FILES, _close)
        self._groups: Handles[Any] = Handles(max(1, CACHE_BYTES // max(1, size)))

    def __len__(self) -> int:
        return int(self._index.arrays["ends"][-1])

    def read(self, index: int) -> bytes:
        """The image's bytes."""
        group, row = place(self._index.arrays["ends"], index)
        try:
            return bytes_of(self._groups.get(group, lambda: self._column(group))[row])
        except need("pyarrow").ArrowException as error:
            raise BadImage(f"{type(error).__name__}: {first_line(error)}") from error

    def _column(self, group: int) -> Any:
        number, inside = int(self._index.arrays["file"][group]), int(self._index.arrays["group"][group])
        file = self._opened.get(number, lambda: need("pyarrow.parquet").ParquetFile(self.files[number]))
        return file.read_row_group(inside, columns=[self._index.facts["leaf"]], use_threads=False).column(0)

    def _content(self) -> str:
        return content_of_files(self.files, self.image)

    def _place(self) -> str:
        return place_of(self.files)

    def name(self, index: int) -> str:
        """File, row group and row."""
        group, row = place(self._index.arrays["ends"], index)
        file = self.files[int(self._index.arrays["file"][group])]
        return shown(f"{file}/row-group-{int(self._index.arrays['group'][group])}/{row}")


def _close(file: Any) -> None:
    file.close()


def listing_of(files: list[Path], image: str, label: str | None) -> Listing:
    """Row groups and classes of ``files``. Raises DataError."""
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    stamps = {str(path): stamp(path) for path in files}
    places: list[tuple[int, int, int, int]] = []  # file, group, rows, bytes of the images
    labels: list[object] = []
    leaves: set[str] = set()
    for number, path in enumerate(files):
        try:
            with parquet.ParquetFile(path) as file:
                if image not in file.schema_arrow.names and "path" in file.schema_arrow.names:
                    raise DataError(f"{path}: there is no column {image}; if it lists paths, use FileList:path={path}")
                leaf = image_leaf(file.schema_arrow, image, path)
                leaves.add(leaf)
                for group in range(file.num_row_groups):
                    chunks = file.metadata.row_group(group)
                    sizes = [chunks.column(c) for c in range(chunks.num_columns)]
                    size = sum(c.total_uncompressed_size for c in sizes if c.path_in_schema == leaf)
                    places.append((number, group, chunks.num_rows, size))
                column = optional_column_of(file.schema_arrow.names, label, "label", path)
                rows = file.metadata.num_rows
                labels += file.read([column], use_threads=False).column(0).to_pylist() if column else [None] * rows
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: is not a Parquet file that can be read: {first_line(error)}") from None
    if not labels:
        raise DataError(f"{files[0]} and {len(files) - 1} other files: contain no images")
    if len(leaves) > 1:
        raise DataError(f"{files[0].parent}: column {image} is laid out in two ways: {', '.join(sorted(leaves))}")
    table = np.array([place for place in places if place[2]], dtype=np.int64)  # [groups, 4]
    log.info("%d files: %d images in %d row groups", len(files), len(labels), len(table))
    numbers, classes = classes_of(labels)
    arrays: Arrays = {
        "file": table[:, 0],
        "group": table[:, 1],
        "ends": np.cumsum(table[:, 2]),
        "labels": numbers,
    }
    facts = {
        "leaf": leaves.pop(),
        "classes": classes,
        "group_rows": int(table[:, 2].max()),
        "group_bytes": int(table[:, 3].max()),
        "fingerprint": hashlib.blake2b(np.ascontiguousarray(table[:, 2:]).tobytes(), digest_size=16).hexdigest(),
    }
    return Listing(arrays, facts, stamps)
