"""Hugging Face data sets on disk: ``HuggingFace:root=FOLDER[:split=train][:image=image][:label=label]``.

The folder is what ``save_to_disk`` of the package ``datasets`` wrote, or a downloaded repository of Parquet files.
Its Arrow files are mapped into memory and read by pyarrow alone: no worker imports ``datasets``, nothing is downloaded
and no code that came with the data is run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.imagefolder import check_folder
from dinov3.data.sources.options import Options, local_path
from dinov3.data.sources.parquet import Parquet
from dinov3.data.storage.arrow import bytes_of, image_leaf, optional_column_of
from dinov3.data.storage.extras import need
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.index_cache import Arrays, Index, Listing, stamp
from dinov3.data.storage.labels import numbered
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.segments import place

NAME = "HuggingFace"
OPEN_FILES = 512
STATE, SPLITS = "state.json", "dataset_dict.json"  # what save_to_disk writes for one data set, for several splits

log = logging.getLogger(__name__)


def open_source(options: Options) -> HuggingFace | Parquet:
    """``HuggingFace:root=FOLDER[:split=train][:image=image][:label=label]``."""
    if options.string("name", ""):
        raise options.error(
            "nothing is downloaded: save it once with datasets.load_dataset(...).save_to_disk(FOLDER), "
            "then use HuggingFace:root=FOLDER"
        )
    root, split = local_path(options.string("root")), options.string("split", "")
    image, label = options.string("image", "image"), options.string("label", "") or None
    options.finish()
    check_folder(root)
    root = root.absolute()
    if (root / SPLITS).is_file():
        return HuggingFace(split_folder(root, split or "train"), image, label)
    if (root / STATE).is_file():
        if split:
            raise DataError(f"{root}: has no splits; leave split={split} out")
        return HuggingFace(root, image, label)
    return Parquet(parquet_files(root, split or "train"), image, label)


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split that save_to_disk wrote."""
    splits = read_json(root / SPLITS).get("splits")
    if not isinstance(splits, list) or split not in splits:
        raise DataError(f"{root}: there is no split {split}; there is {', '.join(map(str, splits or []))}")
    return root / split


def parquet_files(root: Path, split: str) -> list[Path]:
    """The files of a split in a downloaded repository: ``train-00000-of-00257.parquet``, or a folder ``train``."""
    found = sorted(root.rglob("*.parquet"))
    if not found:
        raise DataError(f"{root}: holds neither {STATE} (of save_to_disk) nor Parquet files")
    files = [path for path in found if path.stem.split("-")[0] == split or path.parent.name == split]
    if not files:
        raise DataError(f"{root}: no Parquet file is called {split}-*.parquet; there is {found[0].relative_to(root)}")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: is not a JSON object")
    return value


class HuggingFace(Listed):
    """The images of one data set in ``folder``, as save_to_disk wrote it. Raises DataError."""

    def __init__(self, folder: Path, image: str = "image", label: str | None = None) -> None:
        self.folder, self.image = folder, image
        self.files = arrow_files(folder)
        key = "\n".join([str(folder), image, str(label)])
        self._index = Index.open("arrows", key, lambda: listing_of(folder, self.files, image, label))
        self._opened: Handles[list[Any]] = Handles(OPEN_FILES)

    def __len__(self) -> int:
        return int(self._index.arrays["ends"][-1])

    def read(self, index: int) -> bytes:
        """The image's bytes."""
        batch, row = place(self._index.arrays["ends"], index)
        arrays = self._index.arrays
        file = int(arrays["file"][batch])
        try:
            columns = self._opened.get(file, lambda: image_columns(self.files[file], self.image))
        except need("pyarrow").ArrowException as error:
            raise BadImage(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        inside = int(arrays["batch"][batch])
        if inside >= len(columns) or row >= len(columns[inside]):
            raise BadImage("the file has become shorter")
        return bytes_of(columns[inside][row])

    def name(self, index: int) -> str:
        """Folder and row."""
        return f"{self.folder}/{index}"

    def version(self) -> str:
        """A hash of the column, the classes and the files' places, sizes and times of writing."""
        return f"{self.image}-{self._index.version()}"


def arrow_files(folder: Path) -> list[Path]:
    """The data files that ``state.json`` lists. Raises DataError."""
    state = read_json(folder / STATE)
    if any(value for key, value in state.items() if "indices" in key):
        raise DataError(f"{folder}: keeps its order in a separate file: load it and save_to_disk it again")
    entries = state.get("_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise DataError(f"{folder / STATE}: lists no data files of its folder")
    return [folder / str(name) for name in names]


def read_batches(path: Path) -> tuple[Any, list[Any]]:
    """(schema, record batches) of a mapped Arrow file."""
    arrow = need("pyarrow")
    with arrow.ipc.open_stream(arrow.memory_map(str(path))) as reader:
        return reader.schema, list(reader)


def image_columns(path: Path, image: str) -> list[Any]:
    """The column of images of each batch."""
    return [checked(batch.column(image)) for batch in read_batches(path)[1]]


def checked(column: Any) -> Any:
    """``column``, whose offsets are sound: those of a damaged file would lead reads out of it. Raises ArrowInvalid."""
    column.validate(full=True)
    return column


def listing_of(folder: Path, files: list[Path], image: str, label: str | None) -> Listing:
    """Batches and classes of ``files``. Raises DataError."""
    arrow = need("pyarrow")
    places: list[tuple[int, int, int]] = []  # file, batch, rows
    labels: list[object] = []
    digest = hashlib.blake2b(str(read_json(folder / STATE).get("_fingerprint")).encode(), digest_size=16)
    stamps = {}
    for number, path in enumerate(files):
        try:
            stamps[str(path)] = stamp(path)
            schema, batches = read_batches(path)
            image_leaf(schema, image, path)
            column = optional_column_of(schema.names, label, "label", path)
            for inside, batch in enumerate(batches):
                places.append((number, inside, batch.num_rows))
                labels += checked(batch.column(column)).to_pylist() if column else [None] * batch.num_rows
            digest.update(f"/{path.stat().st_size}".encode())
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: is not an Arrow file that can be read: {str(error).splitlines()[0]}") from None
    if not labels:
        raise DataError(f"{folder}: contains no images")
    log.info("%s: %d images in %d files", folder, len(labels), len(files))
    table = np.array([place for place in places if place[2]], dtype=np.int64)  # [batches, 3]
    arrays: Arrays = {
        "file": table[:, 0],
        "batch": table[:, 1],
        "ends": np.cumsum(table[:, 2]),
        "labels": numbered(labels),
    }
    return Listing(arrays, {"fingerprint": digest.hexdigest()}, stamps)
