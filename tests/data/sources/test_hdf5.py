from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dinov3.config.schema import Config
from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from tests.data.sources.test_same_images import hashes


def pixels(n: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 40, 50, channels), dtype=np.uint8)


def written(path: Path, **datasets: object) -> str:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return str(path)


def test_pixels_give_the_batches_of_the_same_pixels_as_files(cfg: Config, tmp_path: Path) -> None:
    images = pixels()
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i:02d}.png")
    stored = parse_dataset(written(tmp_path / "a.h5", images=images))
    assert hashes(cfg, stored) == hashes(cfg, parse_dataset(str(tmp_path / "folder")))


def test_gray_pixels_and_many_channels_come_with_their_channels(tmp_path: Path) -> None:
    gray = pixels(channels=1)[..., 0]
    assert np.array_equal(read_image(parse_dataset(written(tmp_path / "g.h5", images=gray)), 3), gray[3][:, :, None])
    deep = pixels(channels=7)
    assert np.array_equal(read_image(parse_dataset(written(tmp_path / "d.h5", images=deep)), 3), deep[3])


def test_files_follow_one_another_and_datasets_can_be_named(tmp_path: Path) -> None:
    images = pixels(5)
    written(tmp_path / "a.h5", **{"x/y": images[:2], "z": [b"b", b"a"]})
    written(tmp_path / "b.h5", **{"x/y": images[2:], "z": [b"c", b"c", b"a"]})
    source = parse_dataset(f"HDF5:root={tmp_path}:images=x/y:labels=z")
    assert all(np.array_equal(read_image(source, i), images[i]) for i in range(5))
    assert [source.label(i) for i in range(5)] == [1, 0, 2, 2, 0]
    assert source.name(4) == f"{tmp_path}/b.h5/x/y/2"


def test_opaque_values_are_encoded_images(tmp_path: Path) -> None:
    source = parse_dataset(written(tmp_path / "a.h5", images=np.array([np.void(b"abc"), np.void(b"xyz")])))
    assert [source.read(i) for i in range(2)] == [b"abc", b"xyz"]


@pytest.mark.parametrize(
    ("datasets", "options", "problem"),
    [
        ({"pictures": pixels(1)}, "", "there is no dataset images; there is pictures: say images=NAME"),
        ({"images/a": pixels(1)}, "", "there is no dataset images; there is images/a"),
        ({"images": pixels(1).astype(np.float32)}, "", r"pixels are uint8 \[N, H, W, C\] or \[N, H, W\]"),
        ({"images": pixels(2).transpose(0, 3, 1, 2)}, "", r"looks like \[N, C, H, W\]; channels come last"),
        ({"images": np.arange(5, dtype=np.uint8)}, "", "encoded images are variable-length uint8"),
        ({"images": pixels(2), "labels": [1]}, "", r"dataset /labels has shape \[1\], there are 2 images"),
        ({"images": pixels(2)}, ":labels=y", "there is no dataset y; there is images: say labels=NAME"),
        ({"images": pixels(0)}, "", "contain no images"),
    ],
)
def test_datasets_that_do_not_fit_are_one_line(
    tmp_path: Path, datasets: dict[str, object], options: str, problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(f"HDF5:root={written(tmp_path / 'a.h5', **datasets)}{options}")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line_and_damaged_chunks_bad_images(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels(4), chunks=(1, 40, 50, 3), compression="gzip")
    source = parse_dataset(str(path))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(3000) + data[middle + 3000 :])
    outcomes = []
    for index in range(4):
        try:
            outcomes.append(read_image(source, index).shape == (40, 50, 3))
        except BadImage:
            outcomes.append(False)
    assert set(outcomes) == {True, False}
    del source  # HDF5 shares what a process has open
    path.write_bytes(data[:100])
    with pytest.raises(DataError, match="is not an HDF5 file that can be read"):
        parse_dataset(str(path))
