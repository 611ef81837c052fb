"""The same image files in every store there is a source for."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Files = dict[str, bytes]  # name -> content, in the order of the names
Labels = list[int]


@cache
def photographs(n: int = 12) -> Files:
    """``n`` textured JPEGs of different sizes, one gray, one turned by its EXIF tag, one PNG."""
    files = {}
    for i in range(n):
        rng = np.random.default_rng(i)
        height, width = (int(side) for side in rng.integers(40, 90, 2))
        rows, columns, channel = np.mgrid[0:height, 0:width, 0:3]
        waves = np.sin(rows * (1 + i) / 9 + channel) + np.cos(columns * (2 + i) / 7 - channel)
        pixels = (128 + 40 * waves + 15 * rng.standard_normal(waves.shape)).clip(0, 255).astype(np.uint8)
        image, file = Image.fromarray(pixels), io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        (image.convert("L") if i == 2 else image).save(file, "PNG" if i == 5 else "JPEG", exif=exif, quality=90)
        files[f"{i:03d}.jpg"] = file.getvalue()
    return files


def write_folder(root: Path, files: Files, labels: Labels) -> str:
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return f"ImageFolder:root={root}"


def write_text_list(root: Path, files: Files, labels: Labels) -> str:
    write_folder(root, files, labels)
    lines = [f"{name}\t{label}\n" for name, label in zip(files, labels, strict=True)]
    (root / "list.txt").write_text("".join(lines))
    return str(root / "list.txt")


def write_csv_list(root: Path, files: Files, labels: Labels) -> str:
    write_folder(root, files, labels)
    path = root.parent / f"{root.name}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["class", "file"], *zip(labels, files, strict=True)])
    return f"FileList:path={path}:root={root}:column=file:label=class"


def write_parquet_list(root: Path, files: Files, labels: Labels) -> str:
    write_folder(root, files, labels)
    pq.write_table(pa.table({"path": list(files), "label": labels}), root / "list.parquet")
    return f"FileList:path={root}/list.parquet"


def write_tar(root: Path, files: Files, labels: Labels) -> str:
    root.mkdir()
    half = len(files) // 2
    items = list(zip(files.items(), labels, strict=True))
    for number, part in enumerate((items[:half], items[half:])):
        with tarfile.open(root / f"{number}.tar", "w") as archive:
            for (name, content), label in part:
                for member, data in ((name, content), (f"{Path(name).stem}.cls", str(label).encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(root)


def write_hdf5(root: Path, files: Files, labels: Labels) -> str:
    with h5py.File(root.with_suffix(".h5"), "w") as file:
        images = file.create_dataset("images", (len(files),), dtype=h5py.vlen_dtype(np.uint8))
        for i, content in enumerate(files.values()):
            images[i] = np.frombuffer(content, dtype=np.uint8)
        file["labels"] = labels
    return str(root.with_suffix(".h5"))


def write_lmdb(root: Path, files: Files, labels: Labels) -> str:
    with lmdb.open(str(root), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"__len__", str(len(files)).encode())
        for name, content in reversed(files.items()):  # keys are sorted whatever the order they came in
            transaction.put(name.encode(), content)
    lines = [f"{name}\t{label}\n" for name, label in zip(files, labels, strict=True)]
    (root / "labels.tsv").write_text("".join(lines))
    return f"LMDB:root={root}:labels={root}/labels.tsv"


def image_table(files: Files, labels: Labels) -> Any:
    """As Hugging Face lays images out."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": content, "path": name} for name, content in files.items()], kind)
    return pa.table({"image": images, "label": pa.array(labels, pa.int64())})


def write_parquet(root: Path, files: Files, labels: Labels) -> str:
    root.mkdir()
    table, half = image_table(files, labels), len(files) // 2
    pq.write_table(table.slice(0, half), root / "train-00000-of-00002.parquet", row_group_size=4, compression="snappy")
    pq.write_table(table.slice(half), root / "train-00001-of-00002.parquet", row_group_size=5)
    return f"Parquet:root={root}"


def write_plain_parquet(root: Path, files: Files, labels: Labels) -> str:
    table = pa.table({"jpg": list(files.values()), "cls": labels})
    pq.write_table(table, root.with_suffix(".parquet"), row_group_size=3)
    return f"Parquet:root={root.with_suffix('.parquet')}:image=jpg:label=cls"


def write_save_to_disk(root: Path, files: Files, labels: Labels) -> str:
    """The layout of ``datasets.Dataset.save_to_disk``; golden_huggingface is a true one."""
    root.mkdir()
    table, half = image_table(files, labels), len(files) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (table.slice(0, half), table.slice(half)), strict=True):
        with pa.ipc.new_stream(str(root / name), part.schema) as writer:
            writer.write_table(part, max_chunksize=4)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "4f2a", "_split": None}
    (root / "state.json").write_text(json.dumps(state))
    return f"HuggingFace:root={root}"


STORES: dict[str, Callable[[Path, Files, Labels], str]] = {
    "folder": write_folder,
    "text list": write_text_list,
    "csv list": write_csv_list,
    "parquet list": write_parquet_list,
    "tar": write_tar,
    "hdf5": write_hdf5,
    "lmdb": write_lmdb,
    "parquet": write_parquet,
    "plain parquet": write_plain_parquet,
    "hugging face": write_save_to_disk,
}
