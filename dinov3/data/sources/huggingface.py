"""Hugging Face data sets on disk: ``HuggingFace:root=FOLDER[:split=train][:image=image][:label=label]``.

The folder is what ``save_to_disk`` of the package ``datasets`` wrote, or a downloaded repository of Parquet files.
Its Arrow files are looked through once by pyarrow, and images are then read from their places in the files: no worker
imports ``datasets`` or maps a file into memory (one that becomes shorter would end it by SIGBUS), nothing is downloaded and
no code that came with the data is run.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.config.shown import shown
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.imagefolder import check_folder
from dinov3.data.sources.options import Options, local_path
from dinov3.data.sources.parquet import Parquet
from dinov3.data.storage.arrow import image_leaf, optional_column_of
from dinov3.data.storage.extras import need
from dinov3.data.storage.handles import Handles
from dinov3.data.storage.identity import content_of
from dinov3.data.storage.index_cache import Arrays, Index, Listing, stamp
from dinov3.data.storage.labels import classes_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.segments import place
from dinov3.system.errors import first_line
from dinov3.system.json_file import JsonError, read_object

NAME = "HuggingFace"
OPEN_FILES = 512
NO_IMAGE, ONLY_PATH = -1, -2  # sizes of images that are not there
MISSING = {
    NO_IMAGE: "there is no image",
    ONLY_PATH: "only paths are stored, not the images: save it with the images embedded",
}
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
        return read_object(path)
    except (OSError, JsonError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


class HuggingFace(Listed):
    """The images of one data set in ``folder``, as save_to_disk wrote it. Raises DataError."""

    def __init__(self, folder: Path, image: str = "image", label: str | None = None) -> None:
        self.folder, self.image = folder, image
        self.files = arrow_files(folder)
        key = "\n".join([str(folder), image, str(label)])
        self._index = Index.open("arrows", key, lambda: listing_of(folder, self.files, image, label))
        self._opened = Handles(OPEN_FILES, os.close)  # file descriptors

    def __len__(self) -> int:
        return len(self._index.arrays["size"])

    def read(self, index: int) -> bytes:
        """The image's bytes."""
        arrays = self._index.arrays
        size = int(arrays["size"][index])
        if size < 0:
            raise BadImage(MISSING[size])
        file = int(arrays["file"][place(arrays["ends"], index)[0]])
        descriptor = self._opened.get(file, lambda: os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC))
        data = os.pread(descriptor, size, int(arrays["offset"][index]))
        if len(data) < size:
            raise BadImage(f"the file ends after {len(data)} of {size} bytes")
        return data

    def _content(self) -> str:
        arrays, files = self._index.arrays, list(map(os.fsencode, self.files))

        def where(index: int) -> tuple[bytes, int]:
            return files[int(arrays["file"][place(arrays["ends"], index)[0]])], int(arrays["offset"][index])

        return content_of([], arrays["size"], where)

    def _place(self) -> str:
        return str(self.folder)

    def name(self, index: int) -> str:
        """Folder and row."""
        return shown(f"{self.folder}/{index}")

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


def checked(column: Any) -> Any:
    """``column``, whose offsets are sound: those of a damaged file would lead reads out of it. Raises ArrowInvalid."""
    column.validate(full=True)
    return column


def places_of(column: Any, base: int, size: int) -> NDArray[np.int64]:
    """``[N, 2]``: where the bytes of each image lie in its file, and how many; sizes below 0 are MISSING.

    ``base``: the address of the mapped file of ``size`` bytes. Raises DataError for bytes that are not in the file as
    they are.
    """
    arrow = need("pyarrow")
    is_struct = arrow.types.is_struct(column.type)
    leaf = column.field("bytes") if is_struct else column
    _, ends, data = leaf.buffers()
    width = np.int64 if arrow.types.is_large_binary(leaf.type) else np.int32
    bounds = np.frombuffer(ends, dtype=width)[leaf.offset : leaf.offset + len(leaf) + 1].astype(np.int64)
    start = (data.address if data is not None and data.size else base) - base
    if len(bounds) and not 0 <= start + bounds[-1] <= size:
        raise DataError("its images are compressed, which allows no random access: save it uncompressed")
    table = np.stack([start + bounds[:-1], np.diff(bounds)], axis=1)
    table[~np.asarray(leaf.is_valid()), 1] = NO_IMAGE
    if is_struct:
        table[~np.asarray(column.is_valid()), 1] = NO_IMAGE
        if column.type.get_field_index("path") >= 0:
            only_path = np.asarray(column.field("path").is_valid()) & (table[:, 1] == NO_IMAGE)
            table[only_path, 1] = ONLY_PATH
    return table


@dataclass
class Rows:
    """What some files hold."""

    batches: list[tuple[int, int]] = field(default_factory=list)  # file, rows
    places: list[NDArray[np.int64]] = field(default_factory=list)
    labels: list[object] = field(default_factory=list)


def _add_file(path: Path, number: int, image: str, label: str | None, rows: Rows) -> None:
    arrow = need("pyarrow")
    with arrow.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer(mapped.size())
        with arrow.ipc.open_stream(whole) as reader:
            image_leaf(reader.schema, image, path)
            column = optional_column_of(reader.schema.names, label, "label", path)
            for batch in reader:
                if batch.num_rows:
                    rows.batches.append((number, batch.num_rows))
                    rows.places.append(places_of(checked(batch.column(image)), whole.address, whole.size))
                    labels = checked(batch.column(column)).to_pylist() if column else [None] * batch.num_rows
                    rows.labels += labels


def listing_of(folder: Path, files: list[Path], image: str, label: str | None) -> Listing:
    """Places and classes of the images in ``files``. Raises DataError."""
    arrow = need("pyarrow")
    rows = Rows()
    digest = hashlib.blake2b(
        str(read_json(folder / STATE).get("_fingerprint")).encode(errors="surrogatepass"), digest_size=16
    )
    stamps = {}
    for number, path in enumerate(files):
        try:
            stamps[str(path)] = stamp(path)
            _add_file(path, number, image, label, rows)
            digest.update(f"/{path.stat().st_size}".encode())
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: is not an Arrow file that can be read: {first_line(error)}") from None
        except DataError as error:
            raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if not rows.labels:
        raise DataError(f"{folder}: contains no images")
    table = np.concatenate(rows.places)
    if (table[:, 1] == ONLY_PATH).all():
        raise DataError(f"{folder}: {MISSING[ONLY_PATH]}")
    log.info("%s: %d images in %d files", folder, len(table), len(files))
    numbers, classes = classes_of(rows.labels)
    batches = np.array(rows.batches, dtype=np.int64)  # [batches, 2]
    arrays: Arrays = {
        "file": batches[:, 0],
        "ends": np.cumsum(batches[:, 1]),
        "offset": table[:, 0],
        "size": table[:, 1],
        "labels": numbers,
    }
    return Listing(arrays, {"fingerprint": digest.hexdigest(), "classes": classes}, stamps)
