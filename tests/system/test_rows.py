from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dinov3.system.rows import RowWriter, append_row, keep_rows, read_rows

TORN = [b'{"step": 2, "lo', b"{", b'"', b"\xff\xfe", b"null", b"[1]", b"[" * 100_000, b"1" * 5000, b"\x00" * 50, b""]


@pytest.mark.parametrize("torn", TORN)
def test_half_a_line_is_passed_over_and_the_next_has_a_line_of_its_own(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn)
    assert read_rows(path) == [{"step": 1}]
    append_row(path, {"step": 2})
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("torn", TORN[:-1])
def test_half_a_line_in_the_middle_costs_itself_alone(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + torn + b'\n{"step": 2}\n')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    keep_rows(path, lambda row: row["step"] < 2)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_write_that_failed_half_way_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    writer, write = RowWriter(path), os.write
    writer.write({"step": 1})

    def full(handle: int, data: bytes) -> int:
        write(handle, data[:5])
        raise OSError("disk full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="disk full"):
        writer.write({"step": 2})
    monkeypatch.setattr(os, "write", write)
    writer.write({"step": 3})
    writer.close()
    writer.close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    append_row(tmp_path / "rows", {"step": 1, "text": "é"})
    assert read_rows(tmp_path / "rows") == [{"step": 1, "text": "é"}]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none") == []
