"""Dataset strings: ``Name:key=value:key=value``, or a path.

``Name`` is the module of this folder that defines ``open_source(options)``, in any case: ``Synthetic:n=1000``,
``ImageFolder:root=/photos``, ``ImageNet:split=TRAIN:root=/imagenet``. A ``:`` begins a new option only before
``word=``, so paths may contain it; ``\\:`` is a plain colon anywhere. What a path holds is seen from its suffix, or,
for a folder, from the files in it.
"""

from __future__ import annotations

import os
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

import dinov3.data.sources as here
from dinov3.data.decode import SUFFIXES
from dinov3.data.errors import DataError
from dinov3.data.sources.options import Options, local_path
from dinov3.data.sources.source import Source
from dinov3.data.storage.left_out import LeftOut, suffix_of
from dinov3.data.storage.listed import Listed
from dinov3.data.storage.names import printable

NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_]*)((?::[A-Za-z_]\w*=.*)?)", re.DOTALL)
OFFICIAL = {  # DINOv3's other datasets: what to give instead
    "imagenet22k": "give its class tars as Tar:root=FOLDER, or its class folders as a path",
    "ade20k": "it is for segmentation; to pretrain on its images, give their folder as a path",
    "cococaptions": "captions are not used; give the folder of its images as a path",
    "nyu": "it is for depth; to pretrain on its images, give their folder as a path",
}
BY_SUFFIX = {
    ".tar": ("tar", "root"),
    ".parquet": ("parquet", "root"),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), ("hdf5", "root")),
    **dict.fromkeys((".mdb", ".lmdb"), ("lmdb", "root")),
    **dict.fromkeys((".txt", ".csv", ".tsv", ".jsonl", ".ndjson"), ("filelist", "path")),
}
BY_CONTENT = {  # the first pattern that a folder has is what it is
    "dataset_dict.json": "huggingface",
    "state.json": "huggingface",
    "data.mdb": "lmdb",
    "*.tar": "tar",
    "*.parquet": "parquet",
    "camelyonpatch_level_2_split_*_x.h5*": "pcam",
    "*.h5": "hdf5",
    "*.hdf5": "hdf5",
}
NEXT_OPTION = re.compile(r"(?<!\\):(?=[A-Za-z_]\w*=)")


def parse_dataset(text: str) -> Source:
    """Open the dataset that ``text`` names. Raises DataError."""
    match = NAMED.fullmatch(text)
    module = module_of(match.group(1)) if match else None
    if match and module is not None:
        options = split_options(text, match.group(2))
        if empty := next((key for key, value in options.items() if not value), None):
            raise DataError(f"{text}: {empty}= is empty: give a value, or leave {empty} out")
        source: Source = module.open_source(Options(text, options))
        return source
    if match and match.group(1).lower() in OFFICIAL:
        raise DataError(f"{text}: {match.group(1)} is not read under its name: {OFFICIAL[match.group(1).lower()]}")
    if match and match.group(2):
        raise DataError(
            f"{text}: there is no dataset {match.group(1)!r}; there is {', '.join(source_names())}, or a path"
        )
    return open_path(text)


def split_options(text: str, options: str) -> dict[str, str]:
    """``:key=value:key=value`` as a dict. ``text``: the dataset string they are from. Raises DataError."""
    values: dict[str, str] = {}
    for pair in NEXT_OPTION.split(options)[1:]:
        key, value = pair.split("=", 1)
        if key in values:
            raise DataError(f"{text}: {key}= is given twice")
        values[key] = value.replace("\\:", ":")
    return values


def open_path(text: str) -> Source:
    """A folder of images, or what its suffix or its files say it is."""
    if not text:  # as a path it would be the folder one happens to be in
        raise DataError(
            "the name of a dataset is empty: give a folder, a file or Name:key=value; in a config null means none"
        )
    path = local_path(text)
    if not path.exists() and re.fullmatch(r"\w+", text):
        raise DataError(
            f"{text}: there is no such path, and no dataset of that name; there is {', '.join(source_names())}"
        )
    name, key = kind_of(path)
    source: Source = import_module(f"{here.__name__}.{name}").open_source(Options(text, {key: text}))
    if path.is_dir() and name != "imagefolder" and isinstance(source, Listed):
        source.beside = images_beside(path)
    return source


def images_beside(folder: Path) -> dict[str, int]:
    """What a folder that is read as shards or a store holds besides: images, and folders, which may hold some."""
    found = LeftOut()
    for entry in os.scandir(os.fsencode(folder)):
        suffix = suffix_of(entry.name)
        if suffix in SUFFIXES:
            found[f"{printable(suffix)}: the folder is read by its other files; say ImageFolder:root={folder}"] += 1
    return dict(found)


def kind_of(path: Path) -> tuple[str, str]:
    """(module that opens ``path``, the option that takes it)."""
    if path.is_dir():
        found = next((name for pattern, name in BY_CONTENT.items() if next(path.glob(pattern), None)), "imagefolder")
        return found, "root"
    suffix = next((suffix for suffix in BY_SUFFIX if suffix in path.name.lower()), "")
    return BY_SUFFIX.get(suffix, ("imagefolder", "root"))


def module_of(name: str) -> ModuleType | None:
    """The module that opens datasets called ``name``, if there is one."""
    if name.lower() not in {info.name for info in pkgutil.iter_modules(here.__path__)}:
        return None
    module = import_module(f"{here.__name__}.{name.lower()}")
    return module if hasattr(module, "open_source") else None


def source_names() -> list[str]:
    """The datasets there are, as their modules spell them."""
    modules = [module_of(info.name) for info in pkgutil.iter_modules(here.__path__)]
    return sorted(module.NAME for module in modules if module is not None)
