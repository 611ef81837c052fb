from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data.errors import DataError
from dinov3.data.storage import extras, index_cache
from dinov3.data.storage.extras import need
from dinov3.data.storage.index_cache import Index, Listing, stamp


def slow_listing(folder: Path) -> Listing:
    (folder / f"made-by-{os.getpid()}").touch()
    time.sleep(0.5)
    return Listing({"x": np.arange(5)}, {"n": 5}, {})


def open_index(folder: Path) -> None:
    assert Index.open("test", "key", lambda: slow_listing(folder)).arrays["x"].tolist() == list(range(5))


def test_of_several_processes_one_makes_the_list_and_all_have_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_index, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("made-by-*"))) == 1


def test_a_list_is_stale_when_something_changed_while_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"1")

    def make() -> Listing:
        before = stamp(file)
        size = file.stat().st_size
        file.write_bytes(b"22")
        return Listing({"x": np.array([size])}, {}, {str(file): before})

    assert Index.open("test", "stale", make).arrays["x"].tolist() == [1]
    assert Index.open("test", "stale", make).arrays["x"].tolist() == [2]


def test_an_index_pickles_without_its_arrays() -> None:
    index = Index.open("test", "large", lambda: Listing({"x": np.arange(10**6)}, {"n": 1}, {}))
    data = pickle.dumps(index)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert np.array_equal(copy.arrays["x"], index.arrays["x"])
    assert copy.facts == {"n": 1}


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "no_such_package", "hdf5")
    with pytest.raises(DataError, match=r"^no_such_package is not installed: pip install 'dinov3\[hdf5\]'$"):
        need("no_such_package.part")


def two_arrays() -> Listing:
    return Listing({"x": np.arange(500), "y": np.arange(3.0)}, {"n": 5, "names": ["a", "b"]}, {})


@given(which=st.integers(0, 2), place=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["cut", "zeros", "flip"]))
@settings(max_examples=60, deadline=None)
def test_whatever_a_power_cut_leaves_of_a_list_is_a_miss_with_a_line(which: int, place: float, how: str) -> None:
    """Empty files, files cut anywhere, the right length full of zeros, one wrong bit."""
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch, all_logged() as lines:
        patch.setenv("XDG_CACHE_HOME", cache)
        Index.open("test", "key", two_arrays)
        kept = [*Path(cache).rglob("*.npy"), *Path(cache).rglob("*.json")]
        file = sorted(kept, key=lambda path: path.name)[which]
        before = file.read_bytes()
        data = bytearray(before)
        at = int(place * len(data))
        if how == "flip":
            data[at] ^= 1
        damaged = data if how == "flip" else data[:at] + bytes(len(data) - at if how == "zeros" else 0)
        file.write_bytes(damaged)
        again = Index.open("test", "key", two_arrays)
        assert again.arrays["x"].tolist() == list(range(500))
        assert again.facts == {"n": 5, "names": ["a", "b"]}
        assert [("damaged, listing again" in line) for line in lines] == [True] * (damaged != before)
        lines.clear()
        assert Index.open("test", "key", lambda: pytest.fail("listed again")).facts == again.facts
        assert not lines


def test_a_list_is_on_the_disk_before_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    index = Index.open("test", "flushed", two_arrays)
    assert index.folder is not None
    assert calls == ["x.npy", "y.npy", "entry.json", index.folder.name, "replace", "test"]


def test_without_a_home_nothing_is_kept_and_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no entry in the password file either
    assert Index.open("test", "key", two_arrays).folder is None


@contextlib.contextmanager
def all_logged() -> Iterator[list[str]]:
    """What the module logs."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    index_cache.log.addHandler(handler)
    try:
        yield lines
    finally:
        index_cache.log.removeHandler(handler)
