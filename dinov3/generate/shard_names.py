"""How WebDataset reads names inside a tar: which member belongs to which sample, and which are passed over.

Recorded from webdataset 1.0.2. What is written here is read by it sample for sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dinov3.generate.errors import GenerateError

OF_THE_FORMAT = re.compile(r"__[^/]*__(/|$)")  # names that WebDataset keeps to itself


def key_and_field(name: str) -> tuple[str, str] | None:
    """``folder/a.b.c`` is field ``b.c`` of sample ``folder/a``; None for a name that belongs to no sample.

    The key ends at the first dot of the last component. Where nothing stands before that dot, the key is the folder with its slash,
    unless the folder has a dot itself.
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, field = last.partition(".")
    if not dot or not (stem or slash) or (not stem and "." in folder.rpartition("/")[2]):
        return None
    return f"{folder}{slash}{stem}", field


def samples_of(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Keys and fields (in small letters) of the samples in members of these names, folders ending in a slash.

    A sample is a run of members of one key: a key that returns begins another sample. GenerateError for a field that comes twice.
    """
    key: str | None = None
    fields: list[str] = []
    for name in names:
        if name.endswith("/") or OF_THE_FORMAT.match(name) or (parts := key_and_field(name)) is None:
            continue
        if parts[0] != key:
            if key is not None:
                yield key, fields
            key, fields = parts[0], []
        if (field := parts[1].lower()) in fields:
            raise GenerateError(f"{name}: the sample {key} has a field {field} already; rename one of them")
        fields.append(field)
    if key is not None:
        yield key, fields


def check_key(key: str) -> None:
    """Raise GenerateError for a key under which WebDataset would not find the sample again."""
    if key_and_field(f"{key}.x") != (key, "x") or OF_THE_FORMAT.match(f"{key}.x") or key.endswith("/"):
        raise GenerateError(f"sample {key!r}: a key has no dot, and does not end in a slash; rename it")
