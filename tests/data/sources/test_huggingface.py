from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.huggingface import HuggingFace
from dinov3.data.sources.parquet import Parquet
from tests.data.stores import photographs, write_parquet, write_save_to_disk

# Written by datasets 5.2: DatasetDict of train (4 rows, shuffled, two files) and test (1 row), save_to_disk. The picture
# of row i is 8 x 8 of value 10 * i, its class i % 2, before the shuffle.
GOLDEN = Path(__file__).parent / "golden_huggingface"


def values(source: HuggingFace | Parquet) -> list[tuple[int, int | None]]:
    return [(int(read_image(source, i)[0, 0, 0]), source.label(i)) for i in range(len(source))]


def test_what_datasets_wrote_is_read() -> None:
    train = parse_dataset(f"HuggingFace:root={GOLDEN}")
    assert isinstance(train, HuggingFace)
    shown = values(train)
    assert sorted(shown) == [(0, 0), (10, 1), (20, 0), (30, 1)]
    assert shown != sorted(shown)  # the order of the shuffle
    assert values(parse_dataset(f"HuggingFace:root={GOLDEN}:split=test")) == [(40, 0)]  # type: ignore[arg-type]
    assert values(parse_dataset(str(GOLDEN / "test"))) == [(40, 0)]  # type: ignore[arg-type]


def test_what_datasets_writes_now_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package that writes these folders; the golden one is old")
    files = [io.BytesIO() for _ in range(3)]
    for i, file in enumerate(files):
        Image.fromarray(np.full((8, 8, 3), 50 * i, dtype=np.uint8)).save(file, "PNG")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = {"image": [{"bytes": f.getvalue(), "path": None} for f in files], "label": [1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).select([2, 0]).save_to_disk(tmp_path / "x")
    assert values(parse_dataset(str(tmp_path / "x"))) == [(100, 1), (0, 1)]  # type: ignore[arg-type]


def test_a_downloaded_repository_of_parquet_files_is_read_by_split(tmp_path: Path) -> None:
    files = photographs()
    write_parquet(tmp_path / "data", files, [1] * 12)
    shutil.copy(tmp_path / "data" / "train-00000-of-00002.parquet", tmp_path / "data" / "test-00000-of-00001.parquet")
    assert len(parse_dataset(f"HuggingFace:root={tmp_path}")) == 12
    assert len(parse_dataset(f"HuggingFace:root={tmp_path}:split=test")) == 6
    with pytest.raises(DataError, match=r"no Parquet file is called val-\*\.parquet; there is data/test-00000"):
        parse_dataset(f"HuggingFace:root={tmp_path}:split=val")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("HuggingFace:name=imagenet-1k", r"nothing is downloaded: save it once with .*save_to_disk\(FOLDER\)"),
        ("HuggingFace:root=hf://datasets/x", "only local paths are read"),
        ("HuggingFace:root=/no/such", "there is no such folder"),
        (f"HuggingFace:root={GOLDEN}:split=val", "there is no split val; there is train, test"),
        (f"HuggingFace:root={GOLDEN}/test:split=test", "has no splits; leave split=test out"),
        (f"HuggingFace:root={GOLDEN}:image=img", "there is no column img; there is image, label: say image=NAME"),
        (f"HuggingFace:root={GOLDEN}:image=label", "column label holds int64, not the bytes of image files"),
        (f"HuggingFace:root={GOLDEN}:trust_remote_code=1", "unknown option trust_remote_code"),
        ("HuggingFace:root={empty}", "holds neither state.json .* nor Parquet files"),
    ],
)
def test_errors_say_what_to_do(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(text.replace("{empty}", str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"_data_files": [{"filename": "../../x.arrow"}]}, "lists no data files of its folder"),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "lists no data files of its folder"),
        ({"_data_files": []}, "lists no data files"),
        ({"_data_files": 3}, "lists no data files"),
        ([], "a list, not a table"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "is not an Arrow file that can be read"),
        ({"_data_files": [{"filename": "a"}], "_indices_files": [{"filename": "b"}]}, "save_to_disk it again"),
    ],
)
def test_a_state_that_lies_is_one_line(tmp_path: Path, state: object, problem: str) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(f"HuggingFace:root={tmp_path}")
    assert "\n" not in str(caught.value)


def test_damaged_files_give_bad_images_or_one_line_and_never_a_crash(tmp_path: Path) -> None:
    write_save_to_disk(tmp_path / "x", photographs(), [0] * 12)
    source = HuggingFace(tmp_path / "x")
    path = tmp_path / "x" / "data-00000-of-00002.arrow"
    data, seen = path.read_bytes(), set()
    for start in range(0, len(data), 61):
        path.write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
        source = pickled_anew(source)
        for index in (0, 5):
            try:
                read_image(source, index)
                seen.add("read")
            except BadImage:
                seen.add("bad")
    assert seen == {"read", "bad"}
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="is not an Arrow file that can be read"):
        HuggingFace(tmp_path / "x")


def pickled_anew(source: HuggingFace) -> HuggingFace:
    """A copy that opens its files again."""
    copy: HuggingFace = HuggingFace.__new__(HuggingFace)
    copy.__dict__.update(source.__dict__)
    copy._opened = type(source._opened)(4)
    return copy


def save(folder: Path, columns: dict[str, pa.Array], options: pa.ipc.IpcWriteOptions | None = None) -> Path:
    """One data file of these columns, as save_to_disk lays them out."""
    folder.mkdir()
    table = pa.table(columns)
    with pa.ipc.new_stream(str(folder / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    return folder


CELLS = st.one_of(st.none(), st.binary(max_size=200))


@given(st.lists(st.tuples(CELLS, st.one_of(st.none(), st.text(max_size=5))), min_size=1, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_images_are_read_from_the_places_pyarrow_finds_them_at(
    rows: list[tuple[bytes | None, str | None]], large: bool
) -> None:
    binary = pa.large_binary() if large else pa.binary()
    plain = pa.array([content for content, _ in rows], binary)
    pairs = pa.array([{"bytes": c, "path": p} for c, p in rows], pa.struct([("bytes", binary), ("path", pa.string())]))
    with tempfile.TemporaryDirectory() as folder:
        for name, column in (("plain", plain), ("pairs", pairs)):
            saved = save(Path(folder) / name, {"image": column})
            if name == "pairs" and all(content is None and path is not None for content, path in rows):
                with pytest.raises(DataError, match="only paths are stored"):
                    HuggingFace(saved)
                continue
            source = HuggingFace(saved)
            for index, (content, _) in enumerate(rows):
                if content is None:
                    with pytest.raises(BadImage, match=r"there is no image|only paths are stored"):
                        source.read(index)
                else:
                    assert source.read(index) == content


def test_compressed_batches_are_refused_with_advice(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    folder = save(tmp_path / "x", {"image": pa.array([b"a" * 5000] * 5)}, options)
    with pytest.raises(DataError, match=r"a\.arrow: its images are compressed, .*: save it uncompressed"):
        HuggingFace(folder)


def test_a_file_that_becomes_shorter_gives_bad_images_and_no_signal(tmp_path: Path) -> None:
    """In a process of its own: mapped into memory, this ended it by SIGBUS."""
    folder = save(tmp_path / "x", {"image": pa.array([bytes([n]) * 9000 for n in range(30)])})
    code = f"""
import os
from pathlib import Path
from dinov3.data.errors import BadImage
from dinov3.data.sources.huggingface import HuggingFace
source = HuggingFace(Path({str(folder)!r}))
outcomes = [len(source.read(0))]
for keep in (100_000, 5_000, 0):
    os.truncate(source.files[0], keep)
    for i in range(30):
        try:
            outcomes.append(len(source.read(i)))
        except BadImage as error:
            outcomes.append(0)
print(*sorted(set(outcomes)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "0 9000\n"
