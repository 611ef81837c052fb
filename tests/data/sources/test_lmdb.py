from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.lmdb import LMDB
from dinov3.data.storage.lmdb_file import NOWHERE, LmdbDamage, LmdbFile


def written(root: Path, values: dict[bytes, bytes], *, subdir: bool = True) -> Path:
    with lmdb.open(str(root), map_size=2**22, subdir=subdir) as environment, environment.begin(write=True) as open_:
        for key, value in values.items():
            open_.put(key, value)
    return root


def test_keys_are_sorted_and_a_prefix_leaves_others_out(tmp_path: Path) -> None:
    values = {b"image-2": b"two", b"image-1": b"one", b"label-1": b"7", b"__keys__": b"pickle"}
    root = written(tmp_path / "x", values)
    source = parse_dataset(f"LMDB:root={root}:prefix=image-")
    assert [source.read(i) for i in range(len(source))] == [b"one", b"two"]
    assert source.name(1) == f"{root}/data.mdb/image-2"
    assert source.left_out == {
        "keys like __len__: they are about the store": 1,
        "keys that do not begin with image-": 1,
    }
    assert len(LMDB(root)) == 3


def test_two_sources_of_a_process_share_an_environment_and_no_lock_file_is_touched(tmp_path: Path) -> None:
    root = written(tmp_path / "x", {b"a": b"1"})
    (root / "lock.mdb").unlink()
    root.chmod(0o555)
    first, second = LMDB(root), LMDB(root, b"a")
    assert first.read(0) == second.read(0) == b"1"
    assert [path.name for path in root.iterdir()] == ["data.mdb"]
    root.chmod(0o755)


def test_one_file_without_a_folder_is_read(tmp_path: Path) -> None:
    written(tmp_path / "x.lmdb", {b"a": b"1"}, subdir=False)
    assert parse_dataset(str(tmp_path / "x.lmdb")).read(0) == b"1"


def test_a_changed_environment_is_listed_again_and_a_lost_key_is_a_bad_image(tmp_path: Path) -> None:
    root = written(tmp_path / "x", {b"a": b"1", b"b": b"2"})
    before = LMDB(root)
    with lmdb.open(str(root) + "-copy", map_size=2**22) as other, other.begin(write=True) as open_:
        open_.put(b"b", b"3")
    (Path(f"{root}-copy") / "data.mdb").replace(root / "data.mdb")
    with pytest.raises(BadImage, match="the file was changed, the key is gone"):
        before.read(0)
    assert before.read(1) == b"3"
    after = LMDB(root)
    assert (len(after), after.read(0)) == (1, b"3")
    assert after.fingerprint() != before.fingerprint()


def test_labels_may_miss_keys(tmp_path: Path) -> None:
    root = written(tmp_path / "x", {b"a": b"1", b"b": b"2"})
    (tmp_path / "labels.txt").write_bytes(b"b\tcat\nz\tdog\n")
    source = parse_dataset(f"LMDB:root={root}:labels={tmp_path}/labels.txt")
    assert [source.label(i) for i in range(2)] == [None, 0]


@pytest.mark.parametrize(
    ("values", "options", "labels", "problem"),
    [
        ({b"__len__": b"0"}, "", None, r"contains no images \(1 keys"),
        ({b"a": b"1"}, ":prefix=image-", None, r"contains no images \(1 keys, of which none begins with 'image-'\)"),
        ({b"a": b"1"}, ":labels={0}/labels.txt", b"a-1\n", "a-1: a line is a key, a tab and a class"),
        ({b"a": b"1"}, ":labels={0}/labels.txt", b"b\t1\n", "names none of the keys of .*, such as a"),
        ({b"a": b"1"}, ":labels={0}/labels.txt", None, "labels.txt: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, values: dict[bytes, bytes], options: str, labels: bytes | None, problem: str
) -> None:
    root = written(tmp_path / "x", values)
    if labels is not None:
        (tmp_path / "labels.txt").write_bytes(labels)
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(f"LMDB:root={root}{options.format(tmp_path)}")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_lmdb_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file; an LMDB is a folder with"):
        LMDB(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(DataError, match="is not an LMDB file that can be read"):
        parse_dataset(str(tmp_path))


def values(n: int) -> dict[bytes, bytes]:
    """On pages of their own, in leaves, and empty."""
    return {f"{i:05d}".encode(): bytes([i % 256]) * (i * 37 % 9000) for i in range(n)}


@given(
    st.dictionaries(st.binary(min_size=1, max_size=300), st.binary(max_size=6000), max_size=40),
    st.lists(st.binary(min_size=1, max_size=300), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_the_file_is_read_as_the_library_reads_it(stored: dict[bytes, bytes], others: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder) / "x", stored)
        with lmdb.open(f"{folder}/x", readonly=True) as environment, environment.begin() as transaction:
            expected = list(transaction.cursor())
        with open(f"{folder}/x/data.mdb", "rb") as opened:
            file = LmdbFile(opened.fileno())
            assert [(key, file.read(*place)) for key, *place in file.items()] == expected
            for key in [*stored, *others]:
                found = file.find(key)
                assert (None if found is None else file.read(*found[1:])) == stored.get(key)


def test_many_pages_and_several_transactions_are_read(tmp_path: Path) -> None:
    stored = values(3000)
    root = tmp_path / "x"
    with lmdb.open(str(root), map_size=2**27, max_dbs=2) as environment:
        for n in range(3):
            with environment.begin(write=True) as transaction:
                for key, value in list(stored.items())[n * 1000 : (n + 1) * 1000]:
                    transaction.put(key, value)
        with environment.begin(write=True) as transaction:
            for key in list(stored)[::7]:
                transaction.delete(key)
                del stored[key]
        environment.open_db(b"named")
    source = LMDB(root)
    assert [(source.read(i)) for i in range(len(source))] == list(stored.values())
    assert source.left_out == {"named databases, and keys with several values": 1}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.04, 0.3, 0.7, 0.99])
def test_a_copy_that_was_cut_short_is_refused_before_anything_starts(tmp_path: Path, share: float) -> None:
    file = written(tmp_path / "x", values(600)) / "data.mdb"
    size = file.stat().st_size
    os.truncate(file, int(size * share))
    with pytest.raises(DataError, match=r"is not an LMDB file that can be read: it (ends after|has become)"):
        LMDB(file)


def test_a_file_that_becomes_shorter_gives_bad_images_and_no_signal(tmp_path: Path) -> None:
    """In a process of its own: mapped into memory, this ended it by SIGBUS."""
    root = written(tmp_path / "x", values(600))
    code = f"""
import os
from dinov3.data.errors import BadImage
from dinov3.data.sources.lmdb import LMDB
from dinov3.data.storage.lmdb_file import NOWHERE, LmdbDamage, LmdbFile
from pathlib import Path
source = LMDB(Path({str(root)!r}))
outcomes = set()
for keep in (0.8, 0.3, 0.0):
    os.truncate(source.file, int(keep * os.path.getsize(source.file)))
    for i in range(len(source)):
        try:
            outcomes.add(type(source.read(i)).__name__)
        except BadImage as error:
            outcomes.add("BadImage")
print(*sorted(outcomes))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "BadImage bytes\n"


@given(st.lists(st.tuples(st.integers(0, 40_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=10))
@settings(max_examples=150, deadline=None)
def test_no_bytes_bring_anything_but_values_and_damage(changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder) / "x", values(40)) / "data.mdb"
        data = bytearray(file.read_bytes())
        for place, noise in changes:
            data[place % len(data) : place % len(data) + len(noise)] = noise
        file.write_bytes(data)
        with open(file, "rb") as opened, contextlib.suppress(LmdbDamage):
            reader = LmdbFile(opened.fileno())
            for key, offset, size in reader.items():
                assert offset == NOWHERE or len(reader.read(offset, size)) == size
                reader.find(key)


def test_what_other_programs_keep_of_the_store_is_no_image(tmp_path: Path) -> None:
    root = written(tmp_path / "x", {b"0": b"image", b"num-samples": b"1", b"__len__": b"1", b"length": b"1"})
    assert [LMDB(root).read(i) for i in range(len(LMDB(root)))] == [b"image"]
