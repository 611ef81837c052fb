from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from dinov3.weights.torch_archive import DamagedArchive, check_archive


def saved(path: Path, **options: bool) -> Path:
    torch.save({"w": torch.arange(1000.0), "b": torch.zeros(3)}, path, **options)
    return path


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_of_a_weight_is_found_by_the_name_of_its_record(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    check_archive(path)
    flip(path, path.read_bytes().index(torch.arange(500.0, 510.0).numpy().tobytes()))
    assert not torch.equal(torch.load(path)["w"], torch.arange(1000.0)), "torch itself reads on"
    with pytest.raises(DamagedArchive, match=r"^damaged: 'x/data/0' in it is not as it was written: copy or download"):
        check_archive(path)


def test_a_damaged_list_of_records_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    flip(path, path.read_bytes().index(b"PK\x01\x02"))
    with pytest.raises(DamagedArchive, match="'list of records'"):
        check_archive(path)


def test_files_without_checksums_pass(tmp_path: Path) -> None:
    check_archive(saved(tmp_path / "old.pth", _use_new_zipfile_serialization=False))
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert {record.CRC for record in zipfile.ZipFile(path).infolist()} == {0}
    check_archive(path)
