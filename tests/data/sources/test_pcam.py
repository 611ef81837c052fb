from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dinov3.data.decode import read_image
from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 96, 96, 3), dtype=np.uint8)


def write(root: Path, split: str, n: int) -> None:
    for part, values in (("x", PIXELS[:n]), ("y", (np.arange(n) % 2).astype(np.uint8)[:, None, None, None])):
        with h5py.File(root / f"camelyonpatch_level_2_split_{split}_{part}.h5", "w") as file:
            file.create_dataset(part, data=values, chunks=(1, *values.shape[1:]), compression="gzip")


def test_the_published_files_are_a_data_set_with_classes(tmp_path: Path) -> None:
    write(tmp_path, "train", 10)
    write(tmp_path, "valid", 4)
    for text in (str(tmp_path), f"PCam:root={tmp_path}", f"PCam:root={tmp_path}:split=train"):
        source = parse_dataset(text)
        assert np.array_equal(read_image(source, 7), PIXELS[7])
        assert [source.label(i) for i in range(10)] == [0, 1] * 5
    assert len(parse_dataset(f"PCam:root={tmp_path}:split=valid")) == 4


def test_what_is_missing_or_still_packed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"camelyonpatch_level_2_split_test_x\.h5: there is no such file"):
        parse_dataset(f"PCam:root={tmp_path}:split=test")
    (tmp_path / "camelyonpatch_level_2_split_train_x.h5.gz").write_bytes(b"x")
    for text in (f"PCam:root={tmp_path}", str(tmp_path)):
        with pytest.raises(DataError, match=r"_x\.h5\.gz is compressed: unpack it with gunzip"):
            parse_dataset(text)
    with pytest.raises(DataError, match="split=val is not one of train, valid, test"):
        parse_dataset(f"PCam:root={tmp_path}:split=val")
