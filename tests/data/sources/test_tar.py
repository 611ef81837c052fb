from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import struct
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3.data.decode import decode
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset, tar
from dinov3.data.sources.tar import Tar
from dinov3.data.storage.tar_headers import TarDamage, members

BLOCK = 512


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def header(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def write_shard(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                archive.addfile(header(member[0], len(member[1]), mtime=1700000000.5), io.BytesIO(member[1]))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shard(
        tmp_path / "a.tar",
        ("000.jpg", png(0)),
        ("000.cls", b"3\n"),
        ("sub/001.png", png(1)),
        ("000.seg.png", png(9)),  # another field of a sample that has its image
        ("sub/001.cls", b"5"),
        ("003.PNG", png(3)),
        ("003.json", b"{}"),
    )


def shown(source: Tar) -> list[int]:
    return [int(decode(source.read(i))[0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_from_their_place_in_every_tar_format(tmp_path: Path, form: int) -> None:
    long_name = "/".join(["folder" * 8] * 3) + "/x.png"
    shard = write_shard(tmp_path / "a.tar", ("000.png", png(7)), (long_name, png(8)), ("000.cls", b"2"), form=form)
    source = Tar([shard])
    assert shown(source) == [7, 8]
    assert [source.label(i) for i in range(2)] == [2, None]
    assert source.name(1) == f"{shard}/{long_name}"


def test_a_class_belongs_to_the_image_of_its_key(shard: Path) -> None:
    source = Tar([shard])
    assert shown(source) == [0, 1, 3]
    assert [source.label(i) for i in range(3)] == [3, 5, None]
    assert source.left_out == {
        ".json: no image file": 1,
        "other images of a sample: a key ends at the first dot, and the key alone is an image too": 1,
    }


def test_nothing_is_written_and_hostile_members_are_counted(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    canary = tmp_path / "escaped.jpg"
    pickled = pickle.dumps({"a": 1})
    shard = write_shard(
        inside / "evil.tar",
        ("../escaped.jpg", png(1)),
        (str(canary), png(1)),
        header("link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        header("hard.jpg", type=tarfile.LNKTYPE, linkname="ok.jpg"),
        header("device.jpg", type=tarfile.CHRTYPE),
        header("pipe.jpg", type=tarfile.FIFOTYPE),
        header("folder", type=tarfile.DIRTYPE),
        ("weights.pkl", pickled),
        ("module.pyd", b"x"),
        ("tensor.pt", pickled),
        ("array.npy", b"x"),
        ("ok.jpg", png(5)),
        ("ok.jpg", png(6)),
        ("ok.png", png(6)),
        ("ok.cls", b"not a number"),
        ("long.cls", b"1" * 100),
    )
    source = Tar([shard])
    assert shown(source) == [5]
    assert source.label(0) is None
    assert source.left_out == {
        "members with paths that lead elsewhere": 2,
        "links and devices": 4,
        **{f"{suffix}: no image file": 1 for suffix in (".pkl", ".pyd", ".pt", ".npy", ".cls")},
        "second images of a key": 2,
        "classes that are not numbers": 1,
    }
    assert not canary.exists()
    assert sorted(os.listdir(tmp_path)) == ["inside"]
    assert os.listdir(inside) == ["evil.tar"]


def damaged(shard: Path, data: bytes) -> Tar:
    shard.write_bytes(data)
    return Tar([shard])


def test_members_before_a_truncation_are_used(shard: Path) -> None:
    data = shard.read_bytes()
    third = data.index(b"003.PNG\0")  # its header
    for cut in (third - 700, third, third + 100, third + BLOCK + 20):
        source = damaged(shard, data[:cut])
        assert shown(source)[:1] == [0]
        assert 3 not in shown(source)
    assert len(source.damaged) == 1
    assert [source.label(i) for i in range(2)] == [3, 5]


def test_members_before_a_wrong_checksum_are_used(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[data.index(b"003.PNG\0") + 148] ^= 1
    source = damaged(shard, bytes(data))
    assert shown(source) == [0, 1]
    assert len(source.damaged) == 1


def resized_header(data: bytes, name: bytes, size: bytes) -> bytes:
    """``data`` with another size in the header of ``name``, and a checksum that fits it."""
    start = data.index(name + b"\0")
    block = bytearray(data[start : start + BLOCK])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return data[:start] + bytes(block) + data[start + BLOCK :]


@pytest.mark.parametrize(
    "size",
    [b"77777777777\0", b"\x80" + struct.pack(">Q", 2**62).rjust(11, b"\0"), b"\xff" * 11 + b"\0"],
    ids=["8 GB", "4 exabytes", "negative"],
)
def test_a_size_that_lies_ends_the_shard_and_nothing_else(shard: Path, size: bytes) -> None:
    source = damaged(shard, resized_header(shard.read_bytes(), b"003.PNG", size))
    assert shown(source) == [0, 1]
    assert len(source.damaged) == 1


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 1024, b"this is not a tar file" * 100])
def test_a_shard_without_images_is_a_data_error_that_counts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="contain no images"):
        Tar([tmp_path / "a.tar"])


def test_an_empty_shard_among_good_ones_is_counted(shard: Path) -> None:
    (shard.parent / "b.tar").write_bytes(b"")
    source = parse_dataset(str(shard.parent))
    assert isinstance(source, Tar)
    assert len(source) == 3
    assert len(source.damaged) == 1


def test_compressed_shards_are_refused_with_advice(shard: Path) -> None:
    zipped = shard.with_name("z.tar")
    with tarfile.open(zipped, "w:gz") as archive:
        archive.addfile(header("x.png", 3), io.BytesIO(b"abc"))
    with pytest.raises(DataError, match=r"is compressed.*gunzip"):
        Tar([zipped])


def test_images_above_the_cap_are_left_out(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match="4 images above"):
        Tar([shard])


def test_a_shard_that_shrank_gives_bad_images(shard: Path) -> None:
    source = Tar([shard])
    os.truncate(shard, 600)
    with pytest.raises(BadImage, match="the shard ends after"):
        source.read(2)


def names(source: Tar) -> list[str]:
    return [Path(source.name(i)).name for i in range(len(source))]


def test_what_follows_the_last_dot_says_whether_a_member_is_an_image(tmp_path: Path) -> None:
    dotted = [(f"tile_x12.5_y{i}.0.jpg", png(i)) for i in range(3)]
    versions = [(f"{i:05d}.v2.jpg", png(i)) for i in range(3, 6)]
    classes = [("tile_x12.5_y1.0.cls", b"7"), ("00004.cls", b"8"), ("00005.v2.cls", b"9")]
    source = Tar([write_shard(tmp_path / "a.tar", *dotted, *versions, *classes)])
    assert shown(source) == list(range(6))
    assert [source.label(i) for i in range(6)] == [None, 7, None, None, 8, 9]
    assert source.left_out == {}


def test_a_sample_of_several_fields_is_its_image(tmp_path: Path) -> None:
    """WebDataset's rule: the key ends at the first dot of the last part of the path; ``__x__`` is about the shard."""
    shard = write_shard(
        tmp_path / "a.tar",
        ("s.1/001.depth.png", png(8)),
        ("s.1/001.jpg", png(1)),
        ("s.1/001.seg.png", png(9)),
        ("s.1/001.cls", b"4"),
        ("__key__.jpg", png(7)),
        ("__meta__/x.jpg", png(7)),
        ("./002.JPG", png(2)),
        ("._002.jpg", png(7)),
        ("folder/.jpg", png(3)),
    )
    source = Tar([shard])
    assert (shown(source), names(source)) == ([1, 2, 3], ["001.jpg", "002.JPG", ".jpg"])
    assert source.label(0) == 4
    assert sorted(source.left_out.values()) == [1, 2, 2]


def sparse(form: str) -> bytes:
    """A shard whose first member is a sparse file, in the four ways GNU tar has written them, and an image."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = header("hole.png", len(png(1)))
        if form == "old":
            member.type = tarfile.GNUTYPE_SPARSE
        else:
            version = {"0.0": ("0", "0"), "0.1": ("0", "1"), "1.0": ("1", "0")}[form]
            keys = {"GNU.sparse.major": version[0], "GNU.sparse.minor": version[1], "GNU.sparse.realsize": "9" * 18}
            keys |= {"GNU.sparse.name": "hole.png", "GNU.sparse.numblocks": "2", "GNU.sparse.map": "not,numbers"}
            member.pax_headers = keys
        archive.addfile(member, io.BytesIO(png(1)))
        archive.addfile(header("good.png", len(png(2))), io.BytesIO(png(2)))
    return memory.getvalue()


@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
def test_sparse_members_are_left_out_and_said_to_be(tmp_path: Path, form: str) -> None:
    (tmp_path / "a.tar").write_bytes(sparse(form))
    source = Tar([tmp_path / "a.tar"])
    assert shown(source) == [2]
    assert source.left_out == {"sparse members: pack them again without --sparse": 1}


def block_of(kind: bytes, data: bytes) -> bytes:
    """A header of a kind that describes the next one, and its content."""
    info = header("././@LongLink", len(data), type=kind)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        (block_of(b"L", b"long" * 50) * 3000, "more than 64 headers describe the member"),
        (block_of(b"x", b"21 path=abcdefghij.p\n") * 3000, "more than 64 headers describe the member"),
        (header("x", 2**33, type=b"L").tobuf(tarfile.GNU_FORMAT), "a header of 8589934592 bytes"),
        (block_of(b"L", bytes(2**20 + 1)), "a header of 1048577 bytes"),
        (block_of(b"x", b"99 path=short\n"), "damaged pax records"),
        (block_of(b"x", b"7 path=\n" * 5), "damaged pax records"),
        (block_of(b"x", b"0 path=a\n"), "damaged pax records"),
        (block_of(b"x", b"path=a\n"), "damaged pax records"),
        (block_of(b"x", b"14 size=-5\n"), "damaged pax records"),
        (block_of(b"x", b"11 size=-5\n"), "the size of the member .* is not a number"),
        (block_of(b"x", b"29 size=99999999999999999999\n"), "the size of the member .* is not a number"),
        (block_of(b"x", b"23 size=99999999999999\n"), "a member of 99999999999999 bytes does not fit"),
    ],
)
def test_headers_that_lie_end_the_shard_in_one_line(tmp_path: Path, before: bytes, problem: str) -> None:
    good = write_shard(tmp_path / "good.tar", ("a.png", png(1)), ("b.png", png(2))).read_bytes()
    second = good.index(b"b.png\0")
    (tmp_path / "a.tar").write_bytes(good[:second] + before + good[second:])
    source = Tar([tmp_path / "a.tar"])
    assert shown(source) == [1]
    (reason,) = source.damaged.values()
    assert re.search(problem, reason)
    assert "\n" not in reason


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120)


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=1500), st.sampled_from(["file", "folder", "link"])), max_size=8),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(NAMES, max_size=2),
)
@settings(max_examples=150, deadline=None)
def test_members_are_those_that_tarfile_finds(
    entries: list[tuple[str, bytes, str]], form: int, folders: list[str]
) -> None:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, content, kind in entries:
                info = header("/".join([*folders, name]), len(content) if kind == "file" else 0)
                info.type = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[kind]
                info.linkname = "x" * 150 if kind == "link" and form != tarfile.USTAR_FORMAT else "x"
                with contextlib.suppress(ValueError):  # too long for ustar
                    archive.addfile(info, io.BytesIO(content))
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            expected = [(m.name.rstrip("/"), m.isreg(), m.isdir(), m.offset_data, m.size) for m in archive]
        found = [
            (m.name.decode("utf-8", "surrogateescape").rstrip("/"), m.kind == "file", m.kind == "folder", *m[2:])
            for m in members(file.fileno(), size)
        ]
    assert found == expected


@given(st.binary(max_size=4000), st.integers(0, 9000), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_no_bytes_bring_anything_but_members_and_damage(noise: bytes, place: int, step: int) -> None:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for n in range(6):
            info = header("long/" * 30 + f"{n}.png", 700, mtime=0.5)
            archive.addfile(info, io.BytesIO(bytes(700)))
    data = bytearray(memory.getvalue())
    data[place : place + len(noise)] = noise
    with tempfile.TemporaryFile() as file:
        file.write(data[: len(data) - step * 100])
        file.flush()
        size = file.tell()
        with contextlib.suppress(TarDamage):
            for member in members(file.fileno(), size):
                assert member.offset + (member.size if member.kind == "file" else 0) <= size


@pytest.mark.parametrize("name", ["p.tar", "p.parquet", "p.h5"])
def test_a_pipe_called_like_a_shard_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for text in (str(tmp_path / name), str(tmp_path), f"{tmp_path}/*{Path(name).suffix}"):
        with pytest.raises(DataError, match=f"{name}: is not a file"):
            parse_dataset(text)


def test_shards_are_named_by_folder_pattern_or_range(tmp_path: Path) -> None:
    for n in (8, 9, 10):
        write_shard(tmp_path / f"part-{n:02d}.tar", (f"{n}.png", png(n)))
    for text in (str(tmp_path), f"{tmp_path}/part-{{08..10}}.tar", f"{tmp_path}/part-*.tar", f"Tar:root={tmp_path}"):
        source = parse_dataset(text)
        assert isinstance(source, Tar)
        assert shown(source) == [8, 9, 10]
    assert len(parse_dataset(f"{tmp_path}/part-{{08,10}}.tar")) == 2
    with pytest.raises(DataError, match=r"part-11\.tar: there is no such file"):
        parse_dataset(f"{tmp_path}/part-{{08..11}}.tar")


def test_the_list_is_kept_until_a_shard_changes(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Tar([shard])
    with monkeypatch.context() as patch:
        patch.setattr(tar, "listing_of", lambda _: pytest.fail("listed again"))
        second = Tar([shard])
    assert second.fingerprint() == first.fingerprint()
    assert shown(second) == shown(first)
    write_shard(shard, ("009.png", png(9)))
    os.utime(shard, (1, 1))
    assert shown(Tar([shard])) == [9]
    assert Tar([shard]).fingerprint() != first.fingerprint()


def test_a_copy_in_another_process_reads_the_same(shard: Path) -> None:
    source = Tar([shard])
    source.read(0)  # a file is open now
    copy = pickle.loads(pickle.dumps(source))
    assert shown(copy) == shown(source)
    assert len(pickle.dumps(source)) < 1000


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "OPEN_SHARDS", 2)
    source = Tar([write_shard(tmp_path / f"{n}.tar", (f"{n}.png", png(n))) for n in range(5)])
    before = len(os.listdir("/proc/self/fd"))
    assert shown(source) == list(range(5))
    assert shown(source) == list(range(5))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    del source
    assert len(os.listdir("/proc/self/fd")) <= before
