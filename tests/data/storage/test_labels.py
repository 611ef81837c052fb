from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.storage.labels import LARGEST, classes_of, every_label, matched_classes, renumbered
from tests.data.stores import photographs, write_folder, write_lmdb

SPELLINGS = ["{}", "{}.0", "{}.", "0{}", " {} ", "+{}", "{}e0", "{}.000", "{}0e-1"]
NOTHING = ["", "nan", "NaN", "NAN", " ", "-nan", None, float("nan"), "<NA>", b"", b"nan"]


@given(st.lists(st.tuples(st.integers(0, LARGEST), st.sampled_from(SPELLINGS))), st.sampled_from(NOTHING))
def test_any_spelling_of_whole_numbers_gives_those_numbers(rows: list[tuple[int, str]], nothing: Any) -> None:
    labels: list[Any] = [spelling.format(number) for number, spelling in rows]
    assert classes_of([*labels, nothing]).names == []
    assert classes_of([*labels, nothing]).numbers.tolist() == [*(number for number, _ in rows), -1]


@given(st.lists(st.one_of(st.none(), st.integers(0, 99), st.floats(), st.booleans(), st.text(), st.binary())))
@settings(max_examples=200)
def test_every_label_has_a_class_below_their_number_or_none(labels: list[Any]) -> None:
    try:
        numbers, names = classes_of(labels)
    except DataError:
        return
    assert len(numbers) == len(labels)
    assert not names or max(numbers) == len(names) - 1


def test_numbers_of_every_type_are_the_same_classes() -> None:
    kinds: list[list[Any]] = [
        [np.float64(2), np.float64("nan"), np.float64(10)],
        [np.int8(2), None, np.uint16(10)],
        [2.0, None, 10.0],
        [b"2.0", b"", b"10.0"],
        ["2", "none", "10"],
    ]
    assert [classes_of(labels).numbers.tolist() for labels in kinds] == [[2, -1, 10]] * len(kinds)
    assert classes_of([True, False, np.True_]).numbers.tolist() == [1, 0, 1]


def test_names_are_numbered_in_order_and_missing_ones_are_no_class() -> None:
    numbers, names = classes_of(["dog", "nan", "cat", "", "none", "7.0", "7"])
    assert names == ["7", "cat", "dog", "none"]
    assert numbers.tolist() == [2, -1, 1, -1, 3, 0, 0]


def test_fractions_are_numbered_by_value_and_keep_their_names() -> None:

    numbers, names = classes_of(["10.5", "2.5", "-1", "nan"])
    assert (numbers.tolist(), names) == ([2, 1, 0, -1], ["-1", "2.5", "10.5"])


@pytest.mark.parametrize("text", ["99999999999", "1e999999999", "9" * 5000, "2147483648.0"])
def test_a_number_too_large_for_a_class_is_one_line_at_once(text: str) -> None:
    with pytest.raises(DataError, match="is too large a number: number classes from 0"):
        classes_of([text, "1"])


LABELS = list(range(12))
AS_TEXT = [f"{label}.0" for label in LABELS]


def list_with(root: Path, delimiter: str) -> str:
    write_folder(root, photographs(), LABELS)
    path = root / ("list.csv" if delimiter == "," else "list.tsv")
    with path.open("w", newline="") as file:
        rows = [["path", "label"], *zip(photographs(), AS_TEXT, strict=True)]
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return str(path)


def text_list(root: Path) -> str:
    write_folder(root, photographs(), LABELS)
    (root / "l.txt").write_text("".join(f"{n}\t{c}\n" for n, c in zip(photographs(), AS_TEXT, strict=True)))
    return str(root / "l.txt")


def parquet_list(root: Path) -> str:
    write_folder(root, photographs(), LABELS)
    pq.write_table(pa.table({"path": list(photographs()), "label": [float(x) for x in LABELS]}), root / "l.parquet")
    return f"FileList:path={root}/l.parquet"


def lmdb_store(root: Path) -> str:
    text = write_lmdb(root, photographs(), LABELS)
    lines = [f"{name}\t{label}\n" for name, label in zip(photographs(), AS_TEXT, strict=True)]
    (root / "labels.tsv").write_text("".join(lines))
    return text


def hdf5_store(root: Path) -> str:
    with h5py.File(root.with_suffix(".h5"), "w") as file:
        file["images"], file["labels"] = np.zeros((12, 4, 4, 3), dtype=np.uint8), np.arange(12, dtype=np.float32)
    return str(root.with_suffix(".h5"))


def parquet_store(root: Path) -> str:
    table = pa.table({"image": list(photographs().values()), "label": [float(label) for label in LABELS]})
    pq.write_table(table, root.with_suffix(".parquet"))
    return f"Parquet:root={root.with_suffix('.parquet')}"


def tar_store(root: Path) -> str:
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        for (name, content), label in zip(photographs().items(), AS_TEXT, strict=True):
            for member, data in ((name, content), (f"{Path(name).stem}.cls", label.encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(root.with_suffix(".tar"))


def class_folders(root: Path) -> str:
    for (name, content), label in zip(photographs().items(), LABELS, strict=True):
        (root / str(label)).mkdir(parents=True)
        (root / str(label) / name).write_bytes(content)
    return str(root)


SOURCES = {
    "csv": lambda root: list_with(root, ","),
    "tsv": lambda root: list_with(root, "\t"),
    "text": text_list,
    "parquet list": parquet_list,
    "lmdb": lmdb_store,
    "hdf5": hdf5_store,
    "parquet": parquet_store,
    "tar": tar_store,
    "folders": class_folders,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_numbers_that_pandas_wrote_as_floats_are_those_numbers_in_every_source(kind: str, tmp_path: Path) -> None:
    source = parse_dataset(SOURCES[kind](tmp_path / "set"))
    assert sorted(source.label(i) or 0 for i in range(12)) == LABELS
    if kind != "folders":  # where images come in the order of the texts
        assert [source.label(i) for i in range(12)] == LABELS
    else:
        assert all(f"/{source.label(i)}/" in source.name(i) for i in range(12))


def test_folders_called_by_dates_are_numbered_in_order(tmp_path: Path) -> None:
    for name in ("20240131", "20230101"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x")
    source = parse_dataset(str(tmp_path))
    assert [source.label(i) for i in range(2)] == [0, 1]


TO_ELEVEN_AND_OTHER = ["0", "1", "10", "11", "2", "other"]  # folders, in the order that gives them their numbers


@pytest.mark.parametrize(
    ("labels", "names", "known", "wanted", "unknown"),
    [
        ([0, 1], ["dog", "eel"], ["cat", "dog", "eel"], [1, 2], []),
        ([0, 2, 11], None, TO_ELEVEN_AND_OTHER, [0, 4, 3], []),
        ([3, 4], TO_ELEVEN_AND_OTHER, None, [11, 2], []),
        ([0, 1], ["2.0", "10"], TO_ELEVEN_AND_OTHER, [4, 2], []),
        ([0, 7], None, TO_ELEVEN_AND_OTHER, [0, -1], ["7"]),
        ([5], TO_ELEVEN_AND_OTHER, None, [-1], ["other"]),
        ([0, 2], None, ["cat", "dog", "eel"], [0, 2], []),
        ([0, 1], ["cat", "lead"], [" lead", "cat"], [1, 0], []),
        ([0, 1], ["a", "b"], [" a", "a ", "b"], [-1, 2], ["a"]),
        ([0, 2], ["cat", "dog", "eel"], None, [0, 2], []),
    ],
)
def test_classes_of_two_sets_are_matched_by_what_they_are_called(
    labels: list[int], names: list[str] | None, known: list[str] | None, wanted: list[int], unknown: list[str]
) -> None:
    found = renumbered(np.array(labels), names, known)
    assert (found.labels.tolist(), found.unknown) == (wanted, unknown)


def test_numbers_put_beside_names_are_said_and_names_beside_names_are_not(caplog: pytest.LogCaptureFixture) -> None:
    labels, names = np.array([1, 0]), ["cat", "dog", "eel", "fox"]
    assert matched_classes("--test", labels, names, names[:2]).tolist() == [1, 0]
    assert matched_classes("--test", labels, None, TO_ELEVEN_AND_OTHER).tolist() == [1, 0]
    assert not caplog.records
    assert matched_classes("--test", labels, None, names).tolist() == [1, 0]
    (line,) = caplog.messages
    assert line.startswith(
        "--test: one set has numbers, the other names: matched in the order of the names (0 is 'cat', "
    )
    assert line.endswith("2 is 'eel', …)")


def test_whole_numbers_of_a_spreadsheet_with_decimal_commas_are_those_numbers() -> None:
    assert classes_of(["10,0", "2,0", "-1,0", ""]).numbers.tolist() == [10, 2, -1, -1]


def test_images_without_a_class_are_counted_and_one_is_named(tmp_path: Path) -> None:
    for name in ("cat1.png", "cat2.png", "dog1.png", "x.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    some = f"ImageFolder:root={tmp_path}:class_of=(cat|dog)"
    source = parse_dataset(some)
    assert every_label(source, some, "k-NN needs labels", range(3)) == [0, 0, 1]
    with pytest.raises(
        DataError, match=r"1 of 4 images have no label, for example .*x\.png: k-NN needs labels for every"
    ):
        every_label(source, some, "k-NN needs labels")
    with pytest.raises(DataError, match=r"cat1\.png has no label: k-NN needs labels$"):
        every_label(parse_dataset(str(tmp_path)), "photos", "k-NN needs labels")
    with pytest.raises(DataError, match=r"1 of 4 images have no label"):
        parse_dataset(f"HeldOut:of={some.replace(':', chr(92) + ':')}:part=train")
