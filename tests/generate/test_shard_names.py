from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.generate.errors import GenerateError
from dinov3.generate.shard_names import check_key, key_and_field, samples_of

NAMES = st.text(alphabet="ab./_A", min_size=1, max_size=9)


@given(NAMES)
def test_key_and_field_together_are_the_name(name: str) -> None:
    if (parts := key_and_field(name)) is not None:
        assert ".".join(parts) == name
        assert "/" not in parts[1]


@given(NAMES)
def test_a_name_is_split_as_webdataset_splits_it(name: str) -> None:
    webdataset = pytest.importorskip("webdataset")
    parts = webdataset.tariterators.base_plus_ext(name)
    assert key_and_field(name) == (None if parts[0] is None else parts)


@given(st.lists(NAMES, max_size=5))
def test_a_tar_has_the_samples_webdataset_finds(names: list[str]) -> None:
    webdataset = pytest.importorskip("webdataset")
    members = [{"fname": name, "data": b"", "__url__": "x"} for name in names if not name.endswith("/")]
    kept = [m for m in members if not webdataset.tariterators.re.match(r"__[^/]*__($|/)", m["fname"])]
    try:
        theirs = [
            (sample["__key__"], [field for field in sample if not field.startswith("__")])
            for sample in webdataset.tariterators.group_by_keys(kept)
        ]
    except ValueError:
        with pytest.raises(GenerateError, match="already"):
            list(samples_of(names))
        return
    # a field may itself begin with two underscores: of these webdataset's own count
    if not any((key_and_field(name) or ("", ""))[1].startswith("__") for name in names):
        assert list(samples_of(names)) == theirs


def test_webdatasets_own_reader_finds_the_same_samples(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    names = ["a.json", "a.dinov3.npy", "__meta__", "b.json", "noext", "a.x"]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    found = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False, empty_check=False)
    assert [(s["__key__"], [f for f in s if not f.startswith("__")]) for s in found] == list(samples_of(names))


@pytest.mark.parametrize("key", ["a.b", "", "folder/", "__x__/a", "dir/.a"])
def test_a_key_that_would_not_be_found_again_is_refused(key: str) -> None:
    with pytest.raises(GenerateError, match="rename it"):
        check_key(key)


@pytest.mark.parametrize("key", ["000000001", "folder.v2/a", "é"])
def test_a_good_key_is_none_the_worse(key: str) -> None:
    check_key(key)
