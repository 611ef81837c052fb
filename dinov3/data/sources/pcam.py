"""PatchCamelyon as it is published: ``PCam:root=FOLDER[:split=train|valid|test]``.

Two HDF5 files a split: ``camelyonpatch_level_2_split_train_x.h5`` with the pixels ``x [N, 96, 96, 3]`` and ``…_y.h5`` with the
classes ``y [N, 1, 1, 1]``, 1 for tumour (Veeling et al., "Rotation Equivariant CNNs for Digital Pathology", 2018).
"""

from __future__ import annotations

from pathlib import Path

from dinov3.data.errors import DataError
from dinov3.data.sources.hdf5 import HDF5
from dinov3.data.sources.imagefolder import check_folder
from dinov3.data.sources.options import Options

NAME = "PCam"
SPLITS = ("train", "valid", "test")
FILE = "camelyonpatch_level_2_split_{split}_{part}.h5"


def open_source(options: Options) -> HDF5:
    """``PCam:root=FOLDER[:split=train|valid|test]``."""
    root, split = options.path("root"), options.choice("split", SPLITS, "train")
    options.finish()
    check_folder(root)
    pixels, classes = (part_of(root.absolute(), split, part) for part in ("x", "y"))
    return HDF5([pixels], "x", "y", labels_file=classes)


def part_of(root: Path, split: str, part: str) -> Path:
    """The file of pixels (``x``) or classes (``y``). Raises DataError that says what is in its place."""
    path = root / FILE.format(split=split, part=part)
    if not path.is_file():
        packed = path.with_name(path.name + ".gz")
        problem = f"{packed.name} is compressed: unpack it with gunzip" if packed.exists() else "there is no such file"
        raise DataError(f"{path}: {problem}")
    return path
