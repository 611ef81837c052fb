from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parquet, parse_dataset
from dinov3.data.sources.parquet import Parquet
from tests.data.stores import image_table, photographs, write_parquet


def test_row_groups_are_read_one_at_a_time_and_few_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photographs()
    text = write_parquet(tmp_path / "p", files, [0] * 12)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    source = parse_dataset(text)
    assert isinstance(source, Parquet)
    read: list[int] = []
    original = Parquet._column
    monkeypatch.setattr(Parquet, "_column", lambda self, group: read.append(group) or original(self, group))
    assert [source.read(i) for i in (0, 3, 11, 0)] == [list(files.values())[i] for i in (0, 3, 11, 0)]
    assert read == [0, 3, 0]  # groups of 4, 2, 5, 1 images; rows 0 and 3 share one


def test_large_row_groups_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = write_parquet(tmp_path / "p", photographs(), [0] * 12)
    with caplog.at_level(logging.WARNING):
        parse_dataset(text)
        assert not caplog.records
        monkeypatch.setattr(parquet, "SLOW_BYTES", 1000)
        parse_dataset(text)
    assert "decoding its row group of up to 5 images" in caplog.text


def test_nulls_and_images_left_outside_are_bad_images(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": b"x", "path": None}, {"bytes": None, "path": "/a.jpg"}, None, {"bytes": b"", "path": None}]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "a.parquet")
    source = parse_dataset(str(tmp_path / "a.parquet"))
    assert source.read(0) == b"x"
    assert source.label(0) is None
    for index in (1, 2, 3):
        with pytest.raises(BadImage):
            read_image(source, index)


def test_labels_may_be_names_and_missing(tmp_path: Path) -> None:
    table = pa.table({"image": [b"a", b"b", b"c"], "label": ["zebra", None, "ape"]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = parse_dataset(str(tmp_path / "a.parquet"))
    assert [source.label(i) for i in range(3)] == [1, None, 0]


@pytest.mark.parametrize(
    ("columns", "options", "problem"),
    [
        ({"img": [b"x"], "cls": [1]}, "", "there is no column image; there is img, cls: say image=NAME"),
        ({"path": ["a.jpg"]}, "", "there is no column image; if it lists paths, use FileList:path="),
        ({"image": ["text"]}, "", "column image holds string, not the bytes of image files"),
        ({"image": [b"x"]}, ":label=cls", "there is no column cls; there is image: say label=NAME"),
        ({"image": np.array([], dtype=bytes)}, "", "not the bytes|contain no images"),
    ],
)
def test_columns_that_do_not_fit_are_one_line(
    tmp_path: Path, columns: dict[str, list[object]], options: str, problem: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(f"Parquet:root={tmp_path}/a.parquet{options}")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line_and_damaged_pages_bad_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(image_table(photographs(), [0] * 12), path, compression="snappy", row_group_size=4)
    data = path.read_bytes()
    source = Parquet([path])
    path.write_bytes(data[:200] + bytes(300) + data[500:])  # the footer is whole
    reasons = []
    for index in range(12):
        try:
            read_image(source, index)
        except BadImage as error:
            reasons.append(str(error))
    assert reasons
    path.write_bytes(data[:-20])
    with pytest.raises(DataError, match="is not a Parquet file that can be read"):
        Parquet([path])
    with pytest.raises(DataError, match="there is no such file"):
        parse_dataset(f"Parquet:root={tmp_path}/b-{{0..3}}.parquet")
