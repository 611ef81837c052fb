from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.data.errors import DataError
from dinov3.data.storage.shards import expand_braces, shards_of


def test_braces_multiply() -> None:
    assert expand_braces("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]
    assert expand_braces("plain") == ["plain"]


@pytest.mark.parametrize("text", ["http://x/a.tar", "pipe:cat a.tar", "file:/a.tar", "s3://bucket/a.tar"])
def test_only_local_shards_are_opened(text: str) -> None:
    with pytest.raises(DataError, match="only local paths"):
        shards_of(text, (".tar",))


def test_a_folder_gives_its_files_of_the_kind_in_order(tmp_path: Path) -> None:
    for name in ("b.h5", "a.hdf5", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in shards_of(str(tmp_path), (".h5", ".hdf5"))] == ["a.hdf5", "b.h5"]
    with pytest.raises(DataError, match=r"holds no file that ends in \.tar"):
        shards_of(str(tmp_path), (".tar",))


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].tar").touch()
    (tmp_path / "a1.tar").touch()
    assert [path.name for path in shards_of(f"{tmp_path}/a[1].tar", (".tar",))] == ["a[1].tar"]
