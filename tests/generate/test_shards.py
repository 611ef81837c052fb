from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.generate.errors import GenerateError
from dinov3.generate.shards import Sample, member_bytes, read_shard, shard_bytes, write_shard


def sample(key: str, patches: int = 3) -> Sample:
    values = np.arange(patches * 4, dtype=np.float16).reshape(patches, 4)
    return Sample(key, {"image_id": key}, values[0], values)


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "x.tar", [sample("b"), sample("a", 5)]) == 2
    found = list(read_shard(tmp_path / "x.tar"))
    assert [s.key for s in found] == ["b", "a"]
    assert np.array_equal(found[1].patches, sample("a", 5).patches)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == [f"{k}.{f}" for k in "ba" for f in ("json", "dinov3.npy", "dinov3_patches.npy")]
        assert {(m.mtime, m.uid, m.uname) for m in tar} == {(0, 0, "")}


@settings(max_examples=30)
@given(patches=st.lists(st.integers(1, 300), max_size=4))
def test_the_size_of_a_tar_is_known_before_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, patches: list[int]
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    write_shard(path, [sample(str(i), n) for i, n in enumerate(patches)])
    with tarfile.open(path) as tar:
        content = sum(member_bytes(member.size) for member in tar)
    assert path.stat().st_size == shard_bytes(content)


def test_an_error_while_a_shard_is_written_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield sample("a")
        raise GenerateError("broken")

    with pytest.raises(GenerateError, match="broken"):
        write_shard(tmp_path / "x.tar", broken())
    assert list(tmp_path.iterdir()) == []


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


HUGE = npy(np.zeros(2, np.float16)).replace(b"(2,)", b"(999999999,)")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.json": b"{}", "a.dinov3.npy": b""}, "not json, dinov3.npy"),
        ({"a.json": b"{", "a.dinov3.npy": b"", "a.dinov3_patches.npy": b""}, "json is damaged"),
        ({"a.json": b"[]", "a.dinov3.npy": b"", "a.dinov3_patches.npy": b""}, "a list, not a table"),
        ({"a.json": b"{}", "a.dinov3.npy": b"", "a.dinov3_patches.npy": b""}, "damaged header"),
        ({"a.json": b"{}", "a.dinov3.npy": npy([1.0]), "a.dinov3_patches.npy": b""}, "not float16"),
        ({"a.json": b"{}", "a.dinov3.npy": npy(np.array([{}])), "a.dinov3_patches.npy": b""}, "not float16"),
        ({"a.json": b"{}", "a.dinov3.npy": HUGE, "a.dinov3_patches.npy": b""}, r"in \d+ bytes"),
        ({"a.JSON": b"{}", "a.dinov3.npy": b"", "a.dinov3_patches.npy": b""}, "not json, dinov3.npy"),
        ({"a.json": b" " * (2**20 + 1), "a.dinov3.npy": b"", "a.dinov3_patches.npy": b""}, "not one of ours"),
    ],
)
def test_a_stranger_among_tars_is_one_line(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    tar_of(tmp_path / "x.tar", members)
    with pytest.raises(GenerateError, match=words) as error:
        list(read_shard(tmp_path / "x.tar"))
    assert str(error.value).startswith(str(tmp_path / "x.tar"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_tar_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"nothing" * 100)
    with pytest.raises(GenerateError, match="cut or damaged"):
        list(read_shard(tmp_path / "x.tar"))


@settings(max_examples=60)
@given(place=st.integers(0, 131), byte=st.integers(0, 255))
def test_no_byte_of_an_arrays_header_does_more_than_end_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    content = bytearray(npy(np.zeros((2, 2), np.float16)))
    content[place] = byte
    whole = npy(np.zeros((1, 2), np.float16))
    members = {"a.json": b"{}", "a.dinov3.npy": bytes(content), "a.dinov3_patches.npy": whole}
    path = tar_of(tmp_path_factory.mktemp("tar") / "x.tar", members)
    try:
        (found,) = read_shard(path)
    except GenerateError as error:
        assert "\n" not in str(error)
    else:
        assert found.cls.size == 4


@pytest.mark.parametrize(
    "header", [b"(" * 9000, b"{" * 9000, b"{'descr': '<f2', 'fortran_order': False, 'shape': (-1, -4)}", b"1" * 9000]
)
def test_a_header_made_to_hurt_is_one_line(tmp_path: Path, header: bytes) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8
    tar_of(tmp_path / "x.tar", {"a.json": b"{}", "a.dinov3.npy": content, "a.dinov3_patches.npy": content})
    with pytest.raises(GenerateError, match="sample a: an array that is not float16"):
        list(read_shard(tmp_path / "x.tar"))
