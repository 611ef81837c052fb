from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.decode import decode
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset, tar
from dinov3.data.sources.tar import Tar

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
        ("002.v2.png", png(9)),  # the suffix is all after the first dot: not an image
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
    assert source.ignored == {"other files": 2}


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
    assert source.ignored == {
        "members with paths that lead elsewhere": 2,
        "links and devices": 4,
        "other files": 5,
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
    assert source.ignored["damaged shards"] == 1
    assert [source.label(i) for i in range(2)] == [3, 5]


def test_members_before_a_wrong_checksum_are_used(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[data.index(b"003.PNG\0") + 148] ^= 1
    source = damaged(shard, bytes(data))
    assert shown(source) == [0, 1]
    assert source.ignored["damaged shards"] == 1


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
    assert source.ignored["damaged shards"] == 1


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
    assert source.ignored["damaged shards"] == 1


def test_compressed_shards_are_refused_with_advice(shard: Path) -> None:
    zipped = shard.with_name("z.tar")
    with tarfile.open(zipped, "w:gz") as archive:
        archive.addfile(header("x.png", 3), io.BytesIO(b"abc"))
    with pytest.raises(DataError, match=r"is compressed.*gunzip"):
        Tar([zipped])


def test_images_above_the_cap_are_left_out(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match="3 images above"):
        Tar([shard])


def test_a_shard_that_shrank_gives_bad_images(shard: Path) -> None:
    source = Tar([shard])
    os.truncate(shard, 600)
    with pytest.raises(BadImage, match="the shard ends after"):
        source.read(2)


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
