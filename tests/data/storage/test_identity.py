from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from PIL import Image

from dinov3.data.sources import open_dataset, parse_dataset
from dinov3.data.storage import identity
from dinov3.data.storage.identity import MISSING, SAMPLES, Identity, Match, common_folder, drawn, sizes_of
from tests.data.stores import STORES, Files, photographs, write_folder, write_lmdb, write_tar

NAMED = ["folder", "text list", "csv list", "parquet list", "tar", "lmdb"]  # stores in which images have names
LABELS = [n % 3 for n in range(12)]


def exchanged(files: Files, which: range) -> Files:
    """Another picture under the same name, of the same size in bytes to within a padding behind the picture."""
    changed = dict(files)
    for name in [list(files)[i] for i in which]:
        memory = io.BytesIO()
        Image.fromarray(np.full((20, 20, 3), 77, dtype=np.uint8)).save(memory, "JPEG")
        changed[name] = memory.getvalue().ljust(len(files[name]), b"\0")[: len(files[name])]
    return changed


def identity_of(write: Callable[[Path, Files, list[int]], str], root: Path, files: Files) -> Identity:
    root.parent.mkdir(exist_ok=True)
    return parse_dataset(write(root, files, LABELS[: len(files)])).identity()


@pytest.mark.parametrize("kind", STORES)
def test_the_same_images_elsewhere_are_the_same(kind: str, tmp_path: Path) -> None:
    here = identity_of(STORES[kind], tmp_path / "here" / "data", photographs())
    there = identity_of(STORES[kind], tmp_path / "there" / "other name", photographs())
    if kind != "lmdb":  # which chooses its file's place itself
        assert here.place != there.place
    assert there.compare(here.content) is Match.SAME
    assert here.content.startswith("2:")


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("which", [range(12), range(5, 6)], ids=["all", "one"])
def test_other_images_of_the_same_names_and_sizes_are_different(kind: str, which: range, tmp_path: Path) -> None:
    before = identity_of(STORES[kind], tmp_path / "a" / "data", photographs())
    after = identity_of(STORES[kind], tmp_path / "b" / "data", exchanged(photographs(), which))
    assert after.compare(before.content) is Match.DIFFERENT
    if kind in NAMED:
        assert after.legacy == before.legacy  # which is what was wrong with it


@pytest.mark.parametrize("kind", STORES)
def test_fewer_images_and_another_order_are_different(kind: str, tmp_path: Path) -> None:
    files = photographs()
    before = identity_of(STORES[kind], tmp_path / "a" / "data", files)
    fewer = identity_of(STORES[kind], tmp_path / "b" / "data", dict(list(files.items())[:11]))
    names = list(files)
    turned = dict(zip(names, [files[name] for name in reversed(names)], strict=True))
    turned_round = identity_of(STORES[kind], tmp_path / "c" / "data", turned)
    assert len({before.content, fewer.content, turned_round.content}) == 3


@pytest.mark.parametrize("kind", STORES)
def test_an_older_run_is_compared_by_names_and_that_is_said(kind: str, tmp_path: Path) -> None:
    source = parse_dataset(STORES[kind](tmp_path / "data", photographs(), LABELS))
    assert source.identity().compare(source.fingerprint()) is Match.SAME_NAMES
    assert source.identity().compare("ImageFolder-0123") is Match.DIFFERENT


@pytest.mark.parametrize("kind", STORES)
def test_files_exchanged_in_place_under_their_names_are_noticed(kind: str, tmp_path: Path) -> None:
    """As in a run that is continued: the list of the first start is kept."""
    text = STORES[kind](tmp_path / "data", photographs(), LABELS)
    before = parse_dataset(text).identity()
    again = STORES[kind](tmp_path / "new", exchanged(photographs(), range(12)), LABELS)
    for path in sorted(tmp_path.glob("new*")) + sorted((tmp_path / "new").rglob("*")):
        counterpart = Path(str(path).replace(f"{tmp_path}/new", f"{tmp_path}/data", 1))
        if path.is_file() and not counterpart.name.startswith("list") and counterpart.suffix != ".csv":
            shutil.copyfile(path, counterpart)
    assert again.replace(f"{tmp_path}/new", f"{tmp_path}/data") == text
    assert parse_dataset(text).identity().compare(before.content) is Match.DIFFERENT


def test_a_folder_a_list_a_tar_and_an_lmdb_of_the_same_files_are_the_same(tmp_path: Path) -> None:
    contents = {identity_of(STORES[kind], tmp_path / kind / "data", photographs()).content for kind in NAMED}
    assert len(contents) == 1


def test_another_spelling_of_the_path_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "data", photographs(), LABELS)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    texts = ["data", "data/", "./data", f"{tmp_path}/data", f"{tmp_path}//data/", "link", "ImageFolder:root=data"]
    assert len({parse_dataset(text).identity().content for text in texts}) == 1


def test_the_folder_that_all_paths_of_a_list_begin_with_does_not_count(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", photographs(), LABELS)
    write_folder(tmp_path / "b", photographs(), LABELS)
    contents = set()
    for folder in ("a", "b", f"{tmp_path}/a", "./b"):
        (tmp_path / "list.txt").write_text("".join(f"{folder}/{name}\n" for name in photographs()))
        contents.add(parse_dataset(f"{tmp_path}/list.txt").identity().content)
    assert len(contents) == 1


def test_a_joined_data_set_is_the_same_where_its_parts_are(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one", photographs(), LABELS)
    two = write_folder(tmp_path / "two", exchanged(photographs(), range(3)), LABELS)
    before = open_dataset([one, two]).identity()
    shutil.copytree(one, tmp_path / "copy")
    after = open_dataset([str(tmp_path / "copy"), two])
    assert after.identity().compare(before.content) is Match.SAME
    assert after.identity().place == f"{tmp_path}/copy, {tmp_path}/two"
    assert after.identity().compare(after.fingerprint()) is Match.SAME_NAMES
    assert open_dataset([two, one]).identity().compare(before.content) is Match.DIFFERENT


def test_pictures_that_are_made_are_their_options() -> None:
    a, b = (parse_dataset(f"Synthetic:n={n}").identity() for n in (5, 6))
    assert a.compare(a.content) is Match.SAME
    assert a.compare(b.content) is Match.DIFFERENT


def test_hdf5_of_another_dataset_in_the_same_file_is_different(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = file["b"] = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    contents = {parse_dataset(f"HDF5:root={tmp_path}/a.h5:images={name}").identity().content for name in "ab"}
    assert len(contents) == 2


def test_an_lmdb_that_was_compacted_is_the_same(tmp_path: Path) -> None:
    text = write_lmdb(tmp_path / "x", photographs(), LABELS)
    (tmp_path / "y").mkdir()
    with lmdb.open(str(tmp_path / "x"), readonly=True) as environment:
        environment.copy(str(tmp_path / "y"), compact=True)
    assert parse_dataset(str(tmp_path / "y")).identity().content == parse_dataset(text).identity().content


def test_missing_files_and_pipes_neither_end_nor_hold_it(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", photographs(), LABELS)
    source = parse_dataset(str(tmp_path / "data"))
    before = source.identity()
    (tmp_path / "data" / "003.jpg").unlink()
    os.mkfifo(tmp_path / "data" / "003.jpg")
    assert source.identity().compare(before.content) is Match.DIFFERENT
    (tmp_path / "data" / "003.jpg").unlink()
    assert source.identity().compare(before.content) is Match.DIFFERENT


def test_the_images_that_are_looked_into_are_spread_and_always_the_same() -> None:
    assert drawn(3) == [0, 1, 2]
    many = drawn(10**6)
    assert many == drawn(10**6) == sorted(set(many))
    assert len(many) > 0.99 * SAMPLES
    assert np.histogram(many, bins=4, range=(0, 10**6))[0].min() > SAMPLES / 8
    assert many[:3] == [2591, 3026, 3160]  # on every machine, with every version


def test_common_folders_end_at_a_slash() -> None:
    assert common_folder([b"a/b/1.jpg", b"a/bc/2.jpg"]) == b"a/"
    assert common_folder([b"1.jpg", b"12.jpg"]) == common_folder([]) == b""


def test_sizes_are_the_same_from_slow_and_fast_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        (tmp_path / f"{n}").write_bytes(b"x" * n)
    paths = [os.fsencode(tmp_path / f"{n}") for n in range(51)]
    expected = [*range(50), MISSING]
    monkeypatch.setattr(identity, "PLACES", 7)
    for slow in (0.0, 1e9):
        monkeypatch.setattr(identity, "SLOW", slow)
        assert sizes_of(paths).tolist() == expected
