from __future__ import annotations

import contextlib
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


def claims(path: Path, *, images: dict[str, Any], labels: dict[str, Any] | None = None) -> str:
    """A file of datasets that are described and never written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", dtype=images.pop("dtype", np.uint8), **images)
        if labels is not None:
            file.create_dataset("labels", **{"dtype": np.int64, **labels})
    return str(path)


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        ({"shape": (4, 60_000, 60_000, 3), "chunks": (1, 64, 64, 3)}, None, "an image has more than"),
        ({"shape": (2 * 10**8, 8, 8, 3), "chunks": (1, 8, 8, 3)}, None, "claims 200,000,000 chunks, there are 0"),
        ({"shape": (10**12, 8, 8, 3), "chunks": (1, 8, 8, 3)}, None, "claims 1,000,000,000,000 chunks, there are 0"),
        ({"shape": (10**9, 8, 8, 3)}, None, "claims 192,000,000,000 bytes, there are 0: the file is not complete"),
        ({"shape": (10**9,), "dtype": h5py.vlen_dtype(np.uint8)}, None, "claims 16,000,000,000 bytes, there are 0"),
        ({"shape": (10**6, 32, 32, 3), "chunks": (10**6, 32, 32, 1)}, None, "1,024,000,000 bytes are unpacked|claims"),
        ({"data": pixels(4)}, {"shape": (10**12,), "chunks": (1000,)}, "has shape .*, there are 4 images"),
        ({"data": pixels(4)}, {"shape": (4, 10**9), "chunks": (4, 1000)}, "has shape .*, there are 4 images"),
        ({"data": pixels(4)}, {"shape": (4,), "chunks": (1,)}, "claims 4 chunks, there are 0"),
        (
            {"data": pixels(4)},
            {"data": np.zeros(4, dtype=[("a", "i4"), ("b", "i4")]), "dtype": None},
            "holds .*: classes",
        ),
        ({"data": pixels(4)}, {"data": np.zeros(4, dtype=complex), "dtype": None}, "holds complex128: classes"),
    ],
)
def test_what_a_small_file_claims_is_compared_with_its_size_before_anything_is_asked_for(
    tmp_path: Path, images: dict[str, Any], labels: dict[str, Any] | None, problem: str
) -> None:
    text = claims(tmp_path / "a.h5", images=dict(images), labels=labels)
    tracemalloc.start()
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(text)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert "\n" not in str(caught.value)


def external_link(inside: Path, outside: Path) -> None:
    with h5py.File(inside, "w") as file:
        file["images"] = h5py.ExternalLink(str(outside), "/images")


def soft_then_external(inside: Path, outside: Path) -> None:
    with h5py.File(inside, "w") as file:
        file["a/link"] = h5py.ExternalLink(str(outside), "/")
        file["images"] = h5py.SoftLink("/a/link/images")


def virtual(inside: Path, outside: Path) -> None:
    layout = h5py.VirtualLayout(shape=(3, 40, 50, 3), dtype=np.uint8)
    layout[:] = h5py.VirtualSource(str(outside), "images", shape=(3, 40, 50, 3))
    with h5py.File(inside, "w") as file:
        file.create_virtual_dataset("images", layout)


def virtual_of_a_virtual(inside: Path, outside: Path) -> None:
    virtual(inside.with_name("between.h5"), outside)
    virtual(inside, Path("between.h5"))


def external_storage(inside: Path, outside: Path) -> None:
    raw = outside.with_suffix(".bin")
    (inside.parent / raw).write_bytes(pixels(3).tobytes())
    at = str(raw) if raw.is_absolute() else str(inside.parent / raw)
    with h5py.File(inside, "w") as file:
        file.create_dataset("images", (3, 40, 50, 3), np.uint8, external=[(at, 0, pixels(3).nbytes)])


LEADING = [external_link, soft_then_external, virtual, virtual_of_a_virtual, external_storage]


@pytest.mark.parametrize("lead", LEADING)
@pytest.mark.parametrize("relative", [True, False])
def test_other_files_are_read_below_the_folder_or_when_asked(tmp_path: Path, lead: Any, relative: bool) -> None:
    """``relative``: as ``../other.h5``; a virtual dataset of a virtual one is checked to its end."""
    folder = tmp_path / "set"
    folder.mkdir()
    written(tmp_path / "other.h5", images=pixels(3))
    lead(folder / "a.h5", Path("../other.h5") if relative else tmp_path / "other.h5")
    text = f"HDF5:root={folder}/a.h5"
    with pytest.raises(DataError, match=r"leads to .*, outside of .*/set: outside=yes allows it"):
        parse_dataset(text)
    assert np.array_equal(read_image(parse_dataset(f"{text}:outside=yes"), 2), pixels(3)[2])
    (folder / "deeper").mkdir()
    written(folder / "deeper" / "other.h5", images=pixels(3))
    lead(folder / "a.h5", Path("deeper/other.h5"))
    assert np.array_equal(read_image(parse_dataset(text), 2), pixels(3)[2])


@pytest.mark.parametrize("lead", [external_link, virtual])
def test_a_file_that_is_led_to_and_missing_is_no_black_image(tmp_path: Path, lead: Any) -> None:
    lead(tmp_path / "a.h5", Path("gone.h5"))
    with pytest.raises(DataError, match=r"leads to gone.h5, which is not there"):
        parse_dataset(str(tmp_path / "a.h5"))


def test_links_in_a_circle_and_thousands_of_groups_are_one_line_at_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file["images"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/images")
    with pytest.raises(DataError, match="images leads through more than 16 links"):
        parse_dataset(str(tmp_path / "circle.h5"))
    external_link(tmp_path / "self.h5", Path("self.h5"))
    with pytest.raises(DataError, match="images leads through more than 16 links"):
        parse_dataset(str(tmp_path / "self.h5"))
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")
    started = time.process_time()
    with pytest.raises(DataError, match="there is no dataset images; there is none"):
        parse_dataset(str(tmp_path / "deep.h5"))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 1, 1, 1)])
def test_classes_may_have_further_axes_of_one_and_a_file_of_their_own(tmp_path: Path, shape: tuple[int, ...]) -> None:
    classes = (np.arange(12) % 2).astype(np.uint8).reshape(shape)
    both = parse_dataset(f"HDF5:root={written(tmp_path / 'b.h5', x=pixels(), y=classes)}:images=x:labels=y")
    written(tmp_path / "x.h5", x=pixels())
    written(tmp_path / "y.h5", y=classes)
    apart = [parse_dataset(f"HDF5:root={tmp_path}/x.h5:images=x:labels={tmp_path}/y.h5{name}") for name in ("/y", "")]
    for source in (both, *apart):
        assert [source.label(i) for i in range(12)] == [0, 1] * 6
    written(tmp_path / "x.h5", x=pixels(3))
    with pytest.raises(DataError, match=r"has shape \[12.*\], there are 3 images"):
        parse_dataset(f"HDF5:root={tmp_path}/x.h5:images=x:labels={tmp_path}/y.h5/y")


def test_classes_of_several_files_are_one_list(tmp_path: Path) -> None:
    written(tmp_path / "a.h5", x=pixels(5))
    written(tmp_path / "b.h5", x=pixels(7))
    (tmp_path / "labels").mkdir()
    written(tmp_path / "labels" / "y.h5", y=np.arange(12), other=np.zeros(3))
    with pytest.raises(DataError, match=r"there is other, y: say labels=.*/y.h5/NAME"):
        parse_dataset(f"HDF5:root={tmp_path}:images=x:labels={tmp_path}/labels/y.h5")
    source = parse_dataset(f"HDF5:root={tmp_path}:images=x:labels={tmp_path}/labels/y.h5/y")
    assert [source.label(i) for i in range(12)] == list(range(12))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None, derandomize=True)  # a crash of libhdf5 would end the whole suite
def test_no_bytes_bring_anything_but_images_bad_images_and_one_line(changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        path = Path(folder) / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=pixels(3)[:, :6, :6], chunks=(1, 6, 6, 3), compression="gzip")
            file["labels"] = np.arange(3)
        data = bytearray(path.read_bytes())
        for place, noise in changes:
            data[place % len(data) : place % len(data) + len(noise)] = noise
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            source = parse_dataset(str(path))
            for index in range(len(source)):
                with contextlib.suppress(BadImage):
                    read_image(source, index)
