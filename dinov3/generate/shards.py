"""Samples in tar shards: written with the same bytes every time, read without believing any of it.

A sample is ``KEY.json`` (what it is), ``KEY.dinov3.npy`` (class token ``[D]``) and ``KEY.dinov3_patches.npy`` ``[N, D]``, fp16,
patches row by row; in a set to train on also ``KEY.t5h.npy`` ``[L, W]`` fp16 and ``KEY.t5m.npy`` ``[L]`` uint8 (text, and which of it
there is) and ``KEY.vae.npy`` ``[C, h, w]`` fp16 (the latent). WebDataset reads them as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.data.storage.tar_headers import BLOCK, Member, TarDamage, members
from dinov3.generate.errors import GenerateError
from dinov3.generate.shard_names import samples_of
from dinov3.system.files import replacing
from dinov3.system.json_file import JsonError, parse_object

FIELDS = ("json", "dinov3.npy", "dinov3_patches.npy")
TEXT_FIELDS, LATENT_FIELDS = ("t5h.npy", "t5m.npy"), ("vae.npy",)
FORMS = tuple(FIELDS + text + latent for text in ((), TEXT_FIELDS) for latent in ((), LATENT_FIELDS))
DTYPE, MASK_DTYPE = np.dtype("<f2"), np.dtype("|u1")
MAX_JSON = 2**20  # bytes
# The start of a .npy file, version 1.0, as numpy writes it. numpy's own reader evaluates the header as Python.
PREFIX = 10  # bytes before the header: magic, version, its length
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype><f2|\|u1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>\d{1,9},|\d{1,9}(?:, \d{1,9}){1,3})\), \} *\n",
    re.DOTALL,
)


class Sample(NamedTuple):
    """One image. ``facts``: see ``Form.facts``."""

    key: str
    facts: dict[str, Any]
    cls: NDArray[np.float16]  # [D]
    patches: NDArray[np.float16]  # [N, D]
    text: NDArray[np.float16] | None = None  # [L, W]
    text_mask: NDArray[np.uint8] | None = None  # [L], 1 where there is text
    latent: NDArray[np.float16] | None = None  # [C, h, w]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array that is there, by the ending of its name."""
        each = (self.cls, self.patches, self.text, self.text_mask, self.latent)
        names = (*FIELDS[1:], *TEXT_FIELDS, *LATENT_FIELDS)
        return {name: array for name, array in zip(names, each, strict=True) if array is not None}


def json_bytes(facts: dict[str, Any]) -> bytes:
    """The JSON of a sample."""
    return json.dumps(facts, sort_keys=True).encode()


def npy_bytes(array: NDArray[Any]) -> bytes:
    """A ``.npy`` file: of uint8 as it is, of anything else as fp16."""
    file = io.BytesIO()
    dtype = MASK_DTYPE if array.dtype == MASK_DTYPE else DTYPE
    np.save(file, np.ascontiguousarray(array, dtype=dtype), allow_pickle=False)
    return file.getvalue()


def member_bytes(size: int) -> int:
    """What a member of that many bytes takes up in a tar."""
    return BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK


def shard_bytes(content: int) -> int:
    """Bytes of a tar whose members take up ``content``: two empty blocks mark its end, and it is filled up to a record."""
    return (content + 2 * BLOCK + tarfile.RECORDSIZE - 1) // tarfile.RECORDSIZE * tarfile.RECORDSIZE


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write ``path`` whole or not at all; returns the number of samples. The same samples give the same bytes."""
    rows = 0
    with replacing(path) as fresh, tarfile.open(fresh, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            arrays = {name: npy_bytes(array) for name, array in sample.arrays().items()}
            for field, content in {"json": json_bytes(sample.facts), **arrays}.items():
                member = tarfile.TarInfo(f"{sample.key}.{field}")  # no owner, no time
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            rows += 1
    return rows


class ShardIndex:
    """Where the samples of a shard lie; each is read when it is asked for, from several threads at once too.

    GenerateError, naming file and sample, where it is not what ``write_shard`` writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as descriptor:
            self._samples = list(_samples(descriptor))

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, number: int) -> str:
        """Of one sample."""
        return self._samples[number][0]

    def read(self, number: int) -> Sample:
        """One sample."""
        key, places = self._samples[number]
        with _opened(self.path) as descriptor:
            facts = _facts(key, _content(descriptor, places["json"], "json"))
            arrays = {
                field: _array(key, _content(descriptor, place, field), field)
                for field, place in places.items()
                if field != "json"
            }
        return Sample(key, facts, *(arrays.get(field) for field in FORMS[-1][1:]))  # type: ignore[arg-type]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor; what goes wrong while it is read names the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise GenerateError(f"{path}: missing; run `dinov3 dit extract` again") from error
    try:
        yield descriptor
    except TarDamage as error:
        raise GenerateError(f"{path}: cut or damaged ({error}); run `dinov3 dit extract` again") from error
    except GenerateError as error:
        raise GenerateError(f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _samples(descriptor: int) -> Iterator[tuple[str, dict[str, Member]]]:
    found = list(members(descriptor, os.fstat(descriptor).st_size))
    names = [member.name.decode(errors="replace") + ("/" if member.kind == "folder" else "") for member in found]
    places = dict(zip(names, found, strict=True))
    for key, fields in samples_of(names):
        if tuple(fields) not in FORMS or any(f"{key}.{field}" not in places for field in fields):
            raise GenerateError(f"sample {key} has {', '.join(fields)}, not {', '.join(FIELDS)}")
        yield key, {field: places[f"{key}.{field}"] for field in fields}


def read_shard(path: Path) -> Iterator[Sample]:
    """The samples of a shard in order. GenerateError, naming file and sample, where it is not what ``write_shard`` writes."""
    shard = ShardIndex(path)
    for number in range(len(shard)):
        yield shard.read(number)


def _content(descriptor: int, member: Member, field: str) -> bytes:
    if field == "json" and member.size > MAX_JSON:
        raise GenerateError(f"a json of {member.size} bytes: not one of ours")
    return os.pread(descriptor, member.size, member.offset)


def _facts(key: str, content: bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except JsonError as error:
        raise GenerateError(f"sample {key}: its json is damaged ({error})") from error


def _array(key: str, content: bytes, field: str) -> NDArray[Any]:
    """An array; its header is believed only as far as there are bytes."""
    wanted = MASK_DTYPE if field == "t5m.npy" else DTYPE
    match = HEADER.match(content)
    if match is None or np.dtype(match["dtype"].decode()) != wanted:
        raise GenerateError(f"sample {key}: an array that is not {wanted.name} row by row, or has a damaged header")
    shape = tuple(map(int, match["shape"].replace(b",", b" ").split()))
    start = PREFIX + int.from_bytes(match["length"], "little")
    if math.prod(shape) * wanted.itemsize != len(content) - start:
        raise GenerateError(f"sample {key}: an array of shape {shape} in {len(content) - start} bytes")
    return np.frombuffer(content, wanted, offset=start).reshape(shape)
