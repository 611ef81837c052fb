"""Datasets in HDF5 files that nobody has looked at: found without leaving the folder, and checked before they are read.

An HDF5 file may lead elsewhere in three ways: an external link is another file's dataset, a virtual dataset is put
together from other files, external storage keeps the numbers in plain files of any name. All three are followed only below
the folder the file is in, unless that is asked for: a data set from the internet could otherwise show any file of its user.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.data.errors import DataError
from dinov3.data.storage.extras import need

MOST_LINKS = 16  # soft or external links, one leading to the next
MOST_SHOWN, MOST_DEPTH = 8, 5  # datasets that are named, how deep they are looked for
MAX_CHUNK = 2**30  # bytes that must be unpacked for one image


@dataclass(frozen=True)
class Reach:
    """Where other files may be. ``base`` None: anywhere."""

    base: Path | None

    def check(self, named: str, at: Path, file: Path, how: str) -> None:
        """Raise DataError unless what ``file`` calls ``named``, which is ``at``, may be read and is there."""
        if self.base is not None and ("%" in named or ".." in Path(named).parts or not inside(at, self.base)):
            raise DataError(f"{file}: {how} leads to {named}, outside of {self.base}: outside=yes allows it")
        if not at.is_file():
            raise DataError(f"{file}: {how} leads to {named}, which is not there")


def inside(path: Path, base: Path) -> bool:
    """Whether ``path``, as it is written, is below ``base``."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(base))


def open_file(path: Path) -> Any:
    """For reading. A lock is asked for where the file system has them, so that a file being written is refused."""
    return need("h5py").File(path, "r", locking="best-effort")


def dataset_in(file: Any, path: Path, name: str, option: str, reach: Reach) -> Any:
    """The dataset ``name`` of the open ``file`` at ``path``, its links followed one by one. Raises DataError."""
    h5py = need("h5py")
    parts, group = [part for part in name.split("/") if part], file
    links = 0
    while parts:
        part = parts.pop(0)
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            found = ", ".join(names_in(file)) or "none"
            raise DataError(f"{path}: there is no dataset {name}; there is {found}: say {option}=NAME")
        links += not isinstance(link, h5py.HardLink)
        if links > MOST_LINKS:
            raise DataError(f"{path}: {name} leads through more than {MOST_LINKS} links")
        if isinstance(link, h5py.ExternalLink):
            at = path.parent / link.filename
            reach.check(link.filename, at, path, f"the link {name}")
            file, path = open_file(at), at
            group, parts = file, [p for p in link.path.split("/") if p] + parts
        elif isinstance(link, h5py.SoftLink):
            group = file if link.path.startswith("/") else group
            parts = [p for p in link.path.split("/") if p] + parts
        else:
            group = group[part]
    if not isinstance(group, h5py.Dataset):
        found = ", ".join(names_in(file)) or "none"
        raise DataError(f"{path}: there is no dataset {name}; there is {found}: say {option}=NAME")
    check_reach(group, path, reach)
    return group


def names_in(file: Any) -> list[str]:
    """The first MOST_SHOWN datasets, those nearest to the root first; links that lead elsewhere are not followed."""
    h5py = need("h5py")
    found: list[str] = []
    level = [file]
    for _ in range(MOST_DEPTH):
        level = [child for group in level for child in children(group)][:1000]
        found += [child.name.lstrip("/") for child in level if isinstance(child, h5py.Dataset)]
        level = [child for child in level if isinstance(child, h5py.Group)]
        if len(found) >= MOST_SHOWN:
            break
    return found[:MOST_SHOWN]


def children(group: Any) -> Iterator[Any]:
    """What lies in a group itself: at most 1000 things."""
    h5py = need("h5py")
    for number, name in enumerate(group):
        if number == 1000:
            return
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            yield group[name]


def check_reach(dataset: Any, path: Path, reach: Reach, level: int = 0) -> None:
    """Raise DataError when the numbers of ``dataset`` are in files that may not be read, or are not there."""
    if level > MOST_LINKS:
        raise DataError(f"{path}: {dataset.name} is put together from more than {MOST_LINKS} files, one in the other")
    for at in storage_of(dataset):
        reach.check(str(at), at, path, f"the storage of {dataset.name}")
    for named, inner in sources_of(dataset):
        at = path.parent / named if named != "." else path
        if named != ".":
            reach.check(named, at, path, f"the virtual dataset {dataset.name}")
        if "%" in inner or (named == "." and inner.strip("/") == dataset.name.strip("/")):
            continue  # one name for each block; itself
        with open_file(at) as file:
            part = file.get(inner)
            if part is None:
                raise DataError(f"{path}: the virtual dataset {dataset.name} lacks {named}/{inner}")
            check_reach(part, at, reach, level + 1)


def storage_of(dataset: Any) -> list[Path]:
    """The plain files its numbers are in; HDF5 takes relative names from the working directory."""
    return [Path(os.fsdecode(name)) for name, _, _ in dataset.external or ()]


def sources_of(dataset: Any) -> list[tuple[str, str]]:
    """(file, dataset) that a virtual dataset is put together from; the file is ``.`` for its own."""
    return sorted({(s.file_name, s.dset_name) for s in dataset.virtual_sources()}) if dataset.is_virtual else []


def check_stored(dataset: Any, path: Path) -> None:
    """Raise DataError unless all that ``dataset`` claims to hold was written, and one row can be unpacked.

    A file of 1 kB can claim 10^14 values: those never written are zeros. Sizes are compared before anything is asked for.
    """
    where = f"{path}: dataset {dataset.name} of {dataset.dtype} {list(dataset.shape)}"
    width = dataset.id.get_type().get_size()
    if not dataset.size:
        return
    if dataset.is_virtual:
        stored = sum((path.parent / named).stat().st_size for named, _ in sources_of(dataset) if named != ".")
        claimed = len(dataset)  # its files may be compressed, but no image takes less than a byte
        stored += path.stat().st_size
    elif dataset.external:
        stored, claimed = sum(at.stat().st_size for at in storage_of(dataset)), dataset.size * width
    elif dataset.chunks is not None:
        chunk = math.prod(dataset.chunks) * width
        if chunk > MAX_CHUNK:
            raise DataError(f"{where}: {chunk:,} bytes are unpacked for one value: write it again in smaller chunks")
        claimed = math.prod(-(-side // part) for side, part in zip(dataset.shape, dataset.chunks, strict=True))
        stored = min(path.stat().st_size, dataset.id.get_num_chunks())
    else:
        stored, claimed = dataset.id.get_storage_size(), dataset.size * width
        compact = dataset.id.get_create_plist().get_layout() == need("h5py").h5d.COMPACT
        stored = claimed if compact else min(stored, path.stat().st_size)
    if stored < claimed:
        what = "chunks" if dataset.chunks else "bytes"
        raise DataError(f"{where} claims {claimed:,} {what}, there are {stored:,}: the file is not complete")
