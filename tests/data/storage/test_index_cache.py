from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from dinov3.data.errors import DataError
from dinov3.data.storage import extras
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
