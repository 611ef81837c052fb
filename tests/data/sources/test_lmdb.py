from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.lmdb import LMDB


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
    with pytest.raises(BadImage, match="the key is gone"):
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
        ({b"a": b"1"}, ":labels={0}/labels.txt", b"a 1\n", "a 1: a line is a key, a tab and a class"),
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
