from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.filelist import FileList
from tests.data.stores import photographs


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for name, content in zip(("a b.jpg", "sub/c.jpg", "d,e.jpg"), photographs().values(), strict=False):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def listed(path: Path, content: bytes | str, **options: str) -> FileList:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = parse_dataset(":".join([f"FileList:path={path}", *(f"{k}={v}" for k, v in options.items())]))
    assert isinstance(source, FileList)
    return source


def found(source: FileList, root: Path) -> list[str]:
    return [os.path.relpath(source.name(i), root) for i in range(len(source))]


def test_a_line_is_a_path_and_spaces_belong_to_it(images: Path) -> None:
    source = listed(images / "list.txt", "sub/c.jpg\r\na b.jpg\n\nd,e.jpg")
    assert found(source, images) == ["sub/c.jpg", "a b.jpg", "d,e.jpg"]
    assert [source.label(i) for i in range(3)] == [None] * 3
    assert read_image(source, 1).shape[2] == 3


def test_a_class_comes_after_a_tab_and_names_are_numbered_in_order(images: Path) -> None:
    numbers = listed(images / "list.txt", "sub/c.jpg\t12\na b.jpg\t 3 \nd,e.jpg\nd,e.jpg\t-1\n")
    assert [numbers.label(i) for i in range(4)] == [12, 3, None, None]
    names = listed(images / "names.txt", "sub/c.jpg\tzebra\na b.jpg\tape\nd,e.jpg\t7\n")
    assert [names.label(i) for i in range(3)] == [2, 1, 0]


def test_tables_name_their_columns(images: Path) -> None:
    table = 'label,"path",split\n5,"d,e.jpg",train\n6,a b.jpg,test\n'
    source = listed(images / "list.csv", table)
    assert found(source, images) == ["d,e.jpg", "a b.jpg"]
    assert [source.label(i) for i in range(2)] == [5, 6]
    assert listed(images / "list.csv", table, label="split").label(1) == 0
    tabbed = listed(images / "list.tsv", "file\tkind\nsub/c.jpg\tx\n", column="file")
    assert (found(tabbed, images), tabbed.label(0)) == (["sub/c.jpg"], None)


def test_paths_are_relative_to_root_or_to_the_list(images: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    assert len(listed(elsewhere / "a.txt", "sub/c.jpg\n", root=str(images))) == 1
    assert len(listed(elsewhere / "b.txt", "../images/sub/c.jpg\n")) == 1
    assert len(listed(elsewhere / "c.txt", f"{images}/sub/c.jpg\n")) == 1
    assert len(parse_dataset(str(elsewhere / "c.txt"))) == 1


def test_names_need_not_be_text(images: Path) -> None:
    (images / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    for name, content in (("l.txt", b"caf\xe9.jpg\n"), ("l.csv", b"path\ncaf\xe9.jpg\n")):
        source = listed(images / name, content)
        assert source.read(0) == b"x"
        assert source.name(0).endswith("caf\\xe9.jpg")


@pytest.mark.parametrize(
    ("name", "content", "options", "problem"),
    [
        ("l.txt", "", {}, "names no images"),
        ("l.txt", "\n\n", {}, "names no images"),
        ("l.txt", "x.jpg\t1\t2\n", {}, "image 1: a line is a path, or a path, a tab and a class"),
        ("l.txt", "\t1\n", {}, "image 1: a line is a path"),
        ("l.txt", "gone.jpg\n", {}, "none of the paths looked for exists, not even .*gone.jpg: paths are relative"),
        ("l.txt", "a b.jpg\nhttps://x.org/a.jpg\n", {}, "image 2: https://x.org/a.jpg: only local paths are read"),
        ("l.txt", "pipe:cat a.jpg\n", {}, "image 1: pipe:cat a.jpg: only local paths"),
        ("l.txt", "a b.jpg\ns3://b/k.jpg\t3\n", {}, "image 2: s3://b/k.jpg: only local"),
        ("l.txt", "a b.jpg".encode("utf-16-le"), {}, "has zero bytes: save it as UTF-8"),
        ("l.txt", b"\xff\xfea b.jpg", {}, "begins as UTF-16 and is not: save it as UTF-8"),
        ("l.txt", "..\\..\\x.jpg\n", {"root": "{images}"}, "image 1: ../../x.jpg: leads out of root="),
        ("l.csv", "a b.jpg,1\n", {}, "begins with an image: put a line with the names of its columns first"),
        ("l.csv", "path,label\n,1\n", {}, ",1: has no path"),
        ("l.csv", "path,Path \n", {"column": "PATH"}, "there is no column PATH; there is path, Path : say column=NAME"),
        ("l.jsonl", '{"file": "a b.jpg"}\n', {}, "line 1: is not a JSON object with a text path: say column=NAME"),
        ("l.jsonl", "[" * 100_000, {}, "line 1: is not a JSON object"),
        ("l.jsonl", '{"path": "a b.jpg", "label": [1]}', {}, "label is a list or an object"),
        ("l.txt", "a b.jpg\n/etc/passwd\n", {"root": "{images}"}, "image 2: /etc/passwd: leads out of root="),
        ("l.txt", "sub/../../x.jpg\n", {"root": "{images}"}, "image 1: sub/../../x.jpg: leads out of root="),
        ("l.txt", "..\n", {"root": "{images}"}, "leads out of root="),
        ("l.txt", "a b.jpg\n", {"root": "/no/such"}, "/no/such: there is no such folder"),
        ("l.txt", "a b.jpg\n", {"root": "http://x"}, "only local paths"),
        ("l.txt", "a b.jpg\t99999999999\n", {}, "class 99999999999 is too large a number"),
        ("l.csv", "file,label\na b.jpg,1\n", {}, "there is no column path; there is file, label: say column=NAME"),
        ("l.csv", "path,label\na b.jpg\n", {}, "a b.jpg: has 1 values, the header 2"),
        ("l.csv", "path\na b.jpg\n", {"label": "kind"}, "there is no column kind; there is path: say label=NAME"),
        ("l.csv", "", {}, "names no images: it is empty"),
        ("l.csv", "path,label\na b.jpg,1\n".encode("utf-16-le"), {}, "has zero bytes: save it as UTF-8 text"),
        ("l.csv", "path,label\na b.jpg,1\n".encode("utf-32"), {}, "has zero bytes: save it as UTF-8 text"),
        ("l.csv", "path,label,label\na b.jpg,1,2\n", {}, "2 columns are called label: keep one"),
        ("l.parquet", "not parquet", {}, "is not a Parquet file that can be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(
    images: Path, name: str, content: str | bytes, options: dict[str, str], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        listed(images / name, content, **{k: v.format(images=images) for k, v in options.items()})
    assert "\n" not in str(caught.value)


def test_dots_in_names_do_not_lead_out_of_root(images: Path) -> None:
    (images / "..x").mkdir()
    (images / "..x" / "y..jpg").write_bytes(b"x")
    assert len(listed(images / "l.txt", "..x/y..jpg\n", root=str(images))) == 1


def test_a_missing_list_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"l\.txt: there is no such list"):
        FileList(tmp_path / "l.txt")
    with pytest.raises(DataError, match="is not a file"):
        FileList(tmp_path)


def test_parquet_that_holds_images_is_sent_to_its_source(images: Path) -> None:
    pq.write_table(pa.table({"path": [b"\xff\xd8"]}), images / "l.parquet")
    with pytest.raises(DataError, match="does not hold paths; if it holds images, use Parquet:root="):
        FileList(images / "l.parquet")


def test_missing_images_and_devices_are_bad_images_not_the_end(images: Path) -> None:
    os.mkfifo(images / "pipe.jpg")
    source = listed(images / "l.txt", "a b.jpg\ngone.jpg\npipe.jpg\nsub\n/dev/zero\n")
    for index in (1, 2, 3, 4):
        with pytest.raises(BadImage):
            read_image(source, index)


def test_a_changed_list_is_read_again(images: Path) -> None:
    before = listed(images / "l.txt", "a b.jpg\n")
    after = listed(images / "l.txt", "a b.jpg\nsub/c.jpg\n")
    assert (len(before), len(after)) == (1, 2)
    assert before.fingerprint() != after.fingerprint()


def test_three_hundred_thousand_lines_take_seconds(images: Path) -> None:
    lines = "".join(f"class{i % 1000}/picture number {i}.jpg\t{i % 1000}\n" for i in range(300_000))
    (images / "l.txt").write_text(f"a b.jpg\t0\n{lines}")
    started = time.process_time()
    source = FileList(images / "l.txt")
    assert time.process_time() - started < 4
    assert (len(source), source.label(300_000)) == (300_001, 999)
    assert source.name(300_000).endswith("class999/picture number 299999.jpg")


# Lists of a b.jpg (class 2) and sub/c.jpg (class 0), as people and programs write them.
FORMS: dict[str, tuple[str, str | bytes]] = {
    "space": ("l.txt", "a b.jpg 2\nsub/c.jpg 0\n"),
    "spaces and a comment": ("l.txt", "# of the trap cameras\na b.jpg   2 \n\nsub/c.jpg 0\n"),
    "comma": ("l.txt", "a b.jpg,2\nsub/c.jpg, 0\n"),
    "tab and old line ends": ("l.txt", "a b.jpg\t2\rsub/c.jpg\t0\r"),
    "backslashes": ("l.txt", "a b.jpg 2\r\nsub\\c.jpg 0\r\n"),
    "text in UTF-16": ("l.txt", "a b.jpg\t2\nsub/c.jpg\t0\n".encode("utf-16")),
    "text in big-endian UTF-16": ("l.txt", b"\xfe\xff" + "a b.jpg\t2\nsub/c.jpg\t0\n".encode("utf-16-be")),
    "table": ("l.csv", "path,label\na b.jpg,2\nsub/c.jpg,0\n"),
    "table with a mark": ("l.csv", "\ufeffpath,label\na b.jpg,2\nsub/c.jpg,0\n"),
    "space after the comma": ("l.csv", 'path, label\na b.jpg, 2\n"sub/c.jpg", "0"\n'),
    "capital letters": ("l.csv", " Path ,LABEL\na b.jpg,2\nsub/c.jpg,0\n"),
    "semicolons": ("l.csv", "path;label\na b.jpg;2\nsub/c.jpg;0\n"),
    "tabs in a csv": ("l.csv", "path\tlabel\na b.jpg\t2\nsub/c.jpg\t0\n"),
    "blank rows": ("l.csv", "\npath,label\na b.jpg,2\n,\n\nsub/c.jpg,0\n , \n"),
    "an index": ("l.csv", ",path,label\n0,a b.jpg,2.0\n1,sub/c.jpg,0.0\n"),
    "table in UTF-16": ("l.csv", "path,label\r\na b.jpg,2\r\nsub/c.jpg,0\r\n".encode("utf-16")),
    "windows": ("l.csv", "path,label\r\n.\\a b.jpg,2\r\nsub\\c.jpg,0\r\n"),
    "tsv": ("l.tsv", "label\tpath\n2\ta b.jpg\n0\tsub/c.jpg\n"),
    "json lines": ("l.jsonl", '{"path": "a b.jpg", "label": 2}\n\n{"label": 0.0, "path": "sub/c.jpg"}\n'),
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_are_read_as_they_are_written(images: Path, form: str) -> None:
    name, content = FORMS[form]
    source = listed(images / name, content)
    assert [os.path.normpath(name) for name in found(source, images)] == ["a b.jpg", "sub/c.jpg"]
    assert [source.label(i) for i in range(2)] == [2, 0]
    assert len(source.read(0)) > 0


def test_spaces_behind_a_suffix_do_not_belong_to_the_path(images: Path) -> None:
    assert found(listed(images / "l.txt", "a b.jpg \nsub/c.jpg\t\n"), images) == ["a b.jpg", "sub/c.jpg"]


def test_a_backslash_that_is_part_of_a_name_stays(images: Path) -> None:
    (images / "x\\y.jpg").write_bytes(b"x")
    assert listed(images / "l.txt", "x\\y.jpg\nd,e.jpg\n").read(0) == b"x"
