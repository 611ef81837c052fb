"""Samples in tar shards: written with the same bytes every time, read without believing any of it.

A sample is ``KEY.json`` (what it is), ``KEY.dinov3.npy`` (class token ``[D]``) and ``KEY.dinov3_patches.npy`` ``[N, D]``, fp16,
patches row by row. WebDataset reads them as they are.
"""

from __future__ import annotations

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
DTYPE = np.dtype("<f2")
MAX_JSON = 2**20  # bytes
# The start of a .npy file, version 1.0, as numpy writes it for fp16. numpy's own reader evaluates the header as Python.
PREFIX = 10  # bytes before the header: magic, version, its length
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '<f2', 'fortran_order': False, "
    rb"'shape': \((?P<shape>\d{1,9},|\d{1,9}(?:, \d{1,9}){1,3})\), \} *\n",
    re.DOTALL,
)


class Sample(NamedTuple):
    """One image. ``facts``: see ``Plan.facts``."""

    key: str
    facts: dict[str, Any]
    cls: NDArray[np.float16]  # [D]
    patches: NDArray[np.float16]  # [N, D]


def json_bytes(facts: dict[str, Any]) -> bytes:
    """The JSON of a sample."""
    return json.dumps(facts, sort_keys=True).encode()


def npy_bytes(array: NDArray[np.float16]) -> bytes:
    """A ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array, dtype=DTYPE), allow_pickle=False)
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
            contents = (json_bytes(sample.facts), npy_bytes(sample.cls), npy_bytes(sample.patches))
            for field, content in zip(FIELDS, contents, strict=True):
                member = tarfile.TarInfo(f"{sample.key}.{field}")  # no owner, no time
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            rows += 1
    return rows


def read_shard(path: Path) -> Iterator[Sample]:
    """The samples of a shard in order. GenerateError, naming file and sample, where it is not what ``write_shard`` writes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise GenerateError(f"{path}: missing; run `dinov3 dit extract` again") from error
    try:
        found = list(members(descriptor, os.fstat(descriptor).st_size))
        names = [member.name.decode(errors="replace") + ("/" if member.kind == "folder" else "") for member in found]
        places = dict(zip(names, found, strict=True))
        for key, fields in samples_of(names):
            if tuple(fields) != FIELDS or any(f"{key}.{field}" not in places for field in FIELDS):
                raise GenerateError(f"sample {key} has {', '.join(fields)}, not {', '.join(FIELDS)}")
            contents = [_content(descriptor, places[f"{key}.{field}"], field) for field in FIELDS]
            yield Sample(key, _facts(key, contents[0]), _array(key, contents[1]), _array(key, contents[2]))
    except TarDamage as error:
        raise GenerateError(f"{path}: cut or damaged ({error}); run `dinov3 dit extract` again") from error
    except GenerateError as error:
        raise GenerateError(f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _content(descriptor: int, member: Member, field: str) -> bytes:
    if field == "json" and member.size > MAX_JSON:
        raise GenerateError(f"a json of {member.size} bytes: not one of ours")
    return os.pread(descriptor, member.size, member.offset)


def _facts(key: str, content: bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except JsonError as error:
        raise GenerateError(f"sample {key}: its json is damaged ({error})") from error


def _array(key: str, content: bytes) -> NDArray[np.float16]:
    """An fp16 array; its header is believed only as far as there are bytes."""
    match = HEADER.match(content)
    if match is None:
        raise GenerateError(f"sample {key}: an array that is not float16 row by row, or has a damaged header")
    shape = tuple(map(int, match["shape"].replace(b",", b" ").split()))
    start = PREFIX + int.from_bytes(match["length"], "little")
    if math.prod(shape) * DTYPE.itemsize != len(content) - start:
        raise GenerateError(f"sample {key}: an array of shape {shape} in {len(content) - start} bytes")
    return np.frombuffer(content, DTYPE, offset=start).reshape(shape)
