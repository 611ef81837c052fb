"""The zip files of torch: checked against their checksums and their own size before memory is asked for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch

from dinov3.weights.files import WeightsError, read_weights
from dinov3.weights.reading.torch_archive import Archive, DamagedArchive
from dinov3.weights.reading.torch_file import Plan, TorchFile


def saved(path: Path, **options: bool) -> Path:
    torch.save({"w": torch.arange(1000.0), "b": torch.zeros(3)}, path, **options)
    return path


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        saved = TorchFile(file, path.stat().st_size)
        plans = {name: saved.plan(value) for name, value in saved.content.items()}
        return {name: saved.tensor(plan) for name, plan in plans.items() if isinstance(plan, Plan)}


def test_a_flipped_bit_of_a_weight_is_found_by_the_name_of_its_record(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    assert torch.equal(read_all(path)["w"], torch.arange(1000.0))
    flip(path, path.read_bytes().index(torch.arange(500.0, 510.0).numpy().tobytes()))
    assert not torch.equal(torch.load(path)["w"], torch.arange(1000.0)), "torch itself reads on"
    with pytest.raises(DamagedArchive, match=r"^damaged: 'x/data/0' in it is not as it was written: copy or download"):
        read_all(path)


def test_a_damaged_list_of_records_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    flip(path, path.read_bytes().index(b"PK\x01\x02"))
    with pytest.raises(DamagedArchive, match="'list of records'"):
        read_all(path)


def test_files_without_checksums_pass(tmp_path: Path) -> None:
    assert set(read_all(saved(tmp_path / "old.pth", _use_new_zipfile_serialization=False))) == {"w", "b"}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert {record.CRC for record in zipfile.ZipFile(path).infolist()} == {0}
    assert torch.equal(read_all(path)["w"], torch.arange(1000.0))


def zipped(records: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return buffer.getvalue()


def refused(content: bytes) -> str:
    with pytest.raises(DamagedArchive) as caught:
        Archive(io.BytesIO(content), len(content))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_would_grow_are_refused_before_they_are_read() -> None:
    bomb = zipped([("x/data/0", bytes(10_000_000))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    assert "claim more bytes than the file has" in refused(bomb)
    mild = zipped([("x/data/0", b"ab" * 20), ("x/more", bytes(range(256)) * 4)], zipfile.ZIP_DEFLATED)
    assert "claim more bytes" in refused(mild) or "compressed" in refused(mild)
    assert "two records of one name" in refused(zipped([("x/a", b"1"), ("x/a", b"2")]))


def test_records_that_lie_on_top_of_each_other_are_refused() -> None:
    """Every entry of the list points at the same megabyte."""
    plain = zipped([(f"x/{i:03d}", bytes(1000)) for i in range(100)])
    first = plain.index(b"PK\x01\x02")
    data, listed = plain[: plain.index(b"PK\x03\x04", 4)], bytearray(plain[first:])
    at = 0
    for _ in range(100):
        listed[at + 42 : at + 46] = bytes(4)  # where the record begins
        at += 46 + 5
    listed[-6:-2] = len(data).to_bytes(4, "little")
    assert "claim more bytes than the file has" in refused(data + bytes(listed))


def test_torchscript_is_told_from_tensors(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:  # torch.jit.save packs the code
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(WeightsError, match=r"x\.pt: a TorchScript program, not weights"):
        read_weights(tmp_path / "x.pt")
