"""PatchCamelyon's files: where they are published, whether they are whole, and a made set in the same format."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError
from dinov3.data.randomness import generator
from dinov3.data.sources.pcam import FILE, SPLITS
from dinov3.data.storage.extras import need
from dinov3.finetune.errors import FinetuneError
from dinov3.system.bars import Bar
from dinov3.system.files import open_unlinked, replacing

# Zenodo record 2546921 (Veeling et al. 2018, CC0): addresses of the packed files.
MIRRORS = ("https://zenodo.org/records/2546921/files/{name}.gz?download=1",)
SIZES = {"train": 262_144, "valid": 32_768, "test": 32_768}  # images
CHUNK = 1 << 20  # bytes read at once
SIDE = 96  # px
BESIDE = 5  # large nuclei around the middle of every image
CENTRE = 32  # px of the middle square that decides the class, as in the real set


def names() -> Iterator[tuple[str, str, str]]:
    """(split, part, name) of the six files."""
    for split in SPLITS:
        for part in ("x", "y"):
            yield split, part, FILE.format(split=split, part=part)


def download(out: Path, mirrors: tuple[str, ...], sums: dict[str, str], *, dry_run: bool) -> list[str]:
    """Fetch and unpack what is not in ``out`` yet; what was begun goes on. Returns a line a file.

    ``mirrors``: addresses with ``{name}``, tried in turn; ``sums``: sha256 by name of the unpacked file, compared where
    it is given. FinetuneError when no mirror has a file, or a sum differs (the file is removed).
    """
    lines = []
    for _, _, name in names():
        path = out / name
        if path.is_file():
            lines.append(f"{path}: there already")
            continue
        if dry_run:
            lines.append(f"{path}: would come from {mirrors[0].format(name=name)}")
            continue
        out.mkdir(parents=True, exist_ok=True)
        packed = path.with_name(name + ".gz.part")
        _fetch(packed, name, mirrors)
        _unpack(packed, path, sums.get(name))
        packed.unlink()
        lines.append(f"{path}: {path.stat().st_size:,} bytes{'' if name in sums else ', no sum to compare with'}")
    return lines


def _fetch(part: Path, name: str, mirrors: tuple[str, ...]) -> None:
    """The whole packed file as ``part``, behind what is there of it."""
    problems = []
    for mirror in mirrors:
        try:
            _fetch_from(mirror.format(name=name), part, name)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            problems.append(f"{mirror.format(name=name)}: {error}")
        else:
            return
    raise FinetuneError(
        f"{name}: {'; '.join(problems)}: the same command goes on where it ended; --mirror gives another"
    )


def _fetch_from(address: str, part: Path, name: str) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # all of it is here
            return
        raise
    before = have if have and answer.status == 206 else 0
    how = os.O_APPEND if before else os.O_TRUNC
    with answer, os.fdopen(open_unlinked(part, os.O_WRONLY | os.O_CREAT | how), "wb") as file:
        length = int(answer.headers.get("Content-Length") or 0)  # of what is sent now
        with Bar(before + length, about=name, unit="bytes") as bar:
            bar.update(before)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if length and part.stat().st_size < before + length:
        raise OSError(f"ended after {part.stat().st_size:,} bytes")


def _unpack(packed: Path, path: Path, wanted: str | None) -> None:
    digest = hashlib.sha256()
    try:
        with replacing(path) as fresh, gzip.open(packed, "rb") as source, fresh.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
            if wanted is not None and digest.hexdigest() != wanted:
                raise FinetuneError(f"{path}: sha256 {digest.hexdigest()}, {wanted} was wanted: not kept")
    except (EOFError, gzip.BadGzipFile, FinetuneError) as error:
        packed.unlink()
        raise FinetuneError(f"{path.name}: {error}: fetched anew by the same command") from error


@dataclass(frozen=True)
class Verified:
    """What a pair of files holds."""

    split: str
    images: int
    tumour: int  # images of class 1
    digests: dict[str, str]  # sha256 by file name

    def line(self) -> str:
        of = "" if self.images == SIZES[self.split] else f" (the published set has {SIZES[self.split]:,})"
        return f"{self.split}: {self.images:,} images{of}, {self.tumour:,} of class 1"


def verify(root: Path, sums: dict[str, str]) -> list[Verified]:
    """Every pair: it opens, counts agree, labels are 0 and 1, sums are right. DataError or FinetuneError otherwise."""
    h5py, found = need("h5py"), []
    if not root.is_dir():
        raise DataError(
            f"{root}: there is no such folder: `dinov3 pcam download --out {shlex.quote(str(root))}` makes it"
        )
    for split in SPLITS:
        pair = [root / FILE.format(split=split, part=part) for part in ("x", "y")]
        for path in pair:
            if not path.is_file():
                raise DataError(
                    f"{path}: there is no such file: `dinov3 pcam download --out {shlex.quote(str(root))}` fetches it"
                )
        try:
            with h5py.File(pair[0]) as pixels, h5py.File(pair[1]) as classes:
                shape, labels = pixels["x"].shape, classes["y"][...].reshape(-1)
        except (OSError, KeyError) as error:
            raise DataError(
                f"{pair[0]} or {pair[1].name}: damaged ({error}): remove it and download it again"
            ) from error
        if len(labels) != shape[0] or shape[1] != shape[2] or shape[3] != 3:
            raise DataError(f"{pair[0]}: pixels {shape}, {len(labels)} classes beside it: they are no pair")
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{pair[1]}: classes other than 0 and 1")
        digests = {path.name: _sha256(path) for path in pair}
        for name, digest in digests.items():
            if name in sums and sums[name] != digest:
                raise FinetuneError(f"{root / name}: sha256 {digest}, {sums[name]} was wanted: download it again")
        found.append(Verified(split, shape[0], int(labels.sum()), digests))
    return found


def _sha256(path: Path) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file, Bar(size, about=path.name, unit="bytes") as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def synthesise(out: Path, counts: dict[str, int], *, size: int, seed: int, classes: int = 2) -> None:
    """Made tissue in the official format: pink noise with nuclei, some large ones around the middle of every image; those
    in the middle follow the Poisson law of 1 in class 0, of 9 in class 1. Who counts them perfectly has an AUROC of 0.997.

    A function of (seed, split, index). ``classes`` above 2: so many crowds, from none to all.
    """
    h5py = need("h5py")
    out.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(SPLITS):
        n = counts[split]
        labels = generator(seed, "pcam labels", number).permutation(np.arange(n) % classes).astype(np.uint8)
        paths = [out / FILE.format(split=split, part=part) for part in ("x", "y")]
        with (
            Bar(n, about=split, unit="images") as bar,
            replacing(paths[0]) as fresh,
            h5py.File(fresh, "w") as file,
        ):
            pixels = file.create_dataset("x", (n, size, size, 3), np.uint8, chunks=(1, size, size, 3))
            for index in range(n):
                rng = generator(seed, "pcam", number, index)
                pixels[index] = tissue(rng, size, labels[index] / (classes - 1))
                bar.update()
        with replacing(paths[1]) as fresh, h5py.File(fresh, "w") as file:
            file["y"] = labels.reshape(n, 1, 1, 1)


def tissue(rng: np.random.Generator, size: int, crowd: float) -> NDArray[np.uint8]:
    """``[size, size, 3]``; ``crowd`` from 0 to 1: how many of the large nuclei are in the middle."""
    coarse = rng.normal(size=(size // 4 + 1, size // 4 + 1, 1)).repeat(4, 0).repeat(4, 1)[:size, :size]
    image = np.array([222.0, 165.0, 200.0]) + 14 * coarse + rng.normal(0, 6, (size, size, 3)) + rng.normal(0, 8, 3)
    scale, middle = size / SIDE, CENTRE * size / SIDE / 2
    across = np.arange(size) - (size - 1) / 2
    places = [(*rng.uniform(-size / 2, size / 2, 2), rng.uniform(2, 4) * scale) for _ in range(14)]
    for _ in range(BESIDE):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.3, 2.2) * middle
        places.append((far * np.sin(angle), far * np.cos(angle), rng.uniform(2.5, 5) * scale))
    for _ in range(rng.poisson(1 + 8 * crowd)):  # the classes overlap: nobody can be right always
        places.append((*rng.uniform(-middle, middle, 2), rng.uniform(2.5, 5) * scale))
    for y, x, radius in places:
        inside = (across[:, None] - y) ** 2 + (across[None] - x) ** 2 < max(radius, 0.7) ** 2
        image[inside] = np.array([110.0, 60.0, 140.0]) + rng.normal(0, 10, 3)
    return image.clip(0, 255).astype(np.uint8)


def read_sums(path: Path | None) -> dict[str, str]:
    """``sha256  name`` lines, as sha256sum writes them. FinetuneError for other lines."""
    if path is None:
        return {}
    found: dict[str, Any] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="backslashreplace").split("\n"), start=1):
        digest, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if len(digest) != 64 or not name.strip():
            raise FinetuneError(f"{path}: line {number}: not `sha256  name`")
        found[name.strip().removeprefix("*")] = digest.lower()
    return found
