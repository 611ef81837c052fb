from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.sources.parse import kind_of, source_names, split_options
from dinov3.data.sources.source import LeavesOut
from dinov3.data.sources.synthetic import Synthetic


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)


def test_a_name_and_options_open_a_source() -> None:
    source = parse_dataset("Synthetic:n=7:size=32:classes=3:seed=5")
    assert isinstance(source, Synthetic)
    assert (source.n, source.size, source.classes, source.seed) == (7, 32, 3, 5)


@pytest.mark.parametrize("text", ["Synthetic", "synthetic", "SYNTHETIC:n=10000"])
def test_names_may_be_written_in_any_case(text: str) -> None:
    assert len(parse_dataset(text)) == 10_000


def test_a_plain_path_is_a_folder_of_images(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert isinstance(parse_dataset(str(tmp_path)), ImageFolder)


@pytest.mark.parametrize("folder", ["with:colon", "with=equals", "a:b/c=d", "root", "space and ünïcode"])
def test_paths_may_contain_what_separates_options(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "a.png")
    for text in (
        str(tmp_path / folder),
        f"ImageFolder:root={tmp_path / folder}",
        f"ImageFolder:root={tmp_path / folder}:labels=none",
    ):
        assert len(parse_dataset(text)) == 1


def test_a_colon_before_a_word_and_an_equals_sign_can_be_escaped(tmp_path: Path) -> None:
    picture(tmp_path / "a:b=c" / "x.png")
    with pytest.raises(DataError, match="unknown option b"):
        parse_dataset(f"ImageFolder:root={tmp_path}/a:b=c")
    assert len(parse_dataset(f"ImageFolder:root={tmp_path}/a\\:b=c")) == 1


def test_a_relative_path_wins_over_nothing_and_loses_to_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "synthetic" / "a.png")
    assert len(parse_dataset("photos")) == 1
    assert isinstance(parse_dataset("synthetic"), Synthetic)
    assert isinstance(parse_dataset("./synthetic"), ImageFolder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Nothing:root=/x", "there is no dataset 'Nothing'; there is .*ImageFolder.*Synthetic.*, or a path"),
        ("nothing", "no such path, and no dataset of that name; there is .*Synthetic"),
        ("parse:n=1", "there is no dataset 'parse'"),  # a module of that folder, but not a dataset
        ("Synthetic:n=many", "n=many is not a whole number"),
        ("Synthetic:n=0", "n=0 is less than 1"),
        ("Synthetic:number=3", "unknown option number; there is n, size, classes, seed"),
        ("Synthetic:n=1:n=2", "n= is given twice"),
        ("Synthetic:classes=51", "classes=51, but there are 10 shapes in 5 textures"),
        (
            "ImageNet22k:split=ALL:root=/x:extra=/y",
            "is not read under its name: give its class tars as Tar:root=FOLDER",
        ),
        ("ADE20K:split=TRAIN:root=/x", "ADE20K is not read under its name: it is for segmentation"),
        ("CocoCaptions:split=TRAIN:root=/x", "captions are not used; give the folder of its images as a path"),
        ("NYU:split=TRAIN:root=/x", "it is for depth"),
        ("ImageNet:split=TRAIN", "root= is missing"),
        ("ImageFolder", "root= is missing"),
        ("ImageFolder:path=/x", "root= is missing; given: path"),
        ("ImageFolder:root=/x:labels=maybe", "labels=maybe is not one of folder, none"),
        ("ImageNet:split=TRAINING:root=/x", "split=TRAINING is not one of TRAIN, VAL, TEST"),
        ("https://example.com/x.tar", "only local paths are read"),
        ("pipe:cat /etc/passwd", "only local paths are read"),
        ("Tar:root=pipe:cat x.tar", "only local paths are read"),
        ("file:/etc", "only local paths are read"),
        ("/no/such/folder", "there is no such folder"),
    ],
)
def test_errors_name_what_was_given_and_what_there_is(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        parse_dataset(text)
    assert "\n" not in str(caught.value)


def test_every_module_with_a_dataset_is_found_without_a_list() -> None:
    names = "FileList HDF5 HeldOut HuggingFace ImageFolder ImageNet LMDB PCam Parquet Synthetic Tar"
    assert source_names() == names.split()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tar", "tar"),
        ("part-{00..12}.tar", "tar"),
        ("a.h5", "hdf5"),
        ("a.HDF5", "hdf5"),
        ("a.lmdb", "lmdb"),
        ("a.parquet", "parquet"),
        ("a.csv", "filelist"),
        ("photos", "imagefolder"),
        ("folder:data.mdb", "lmdb"),
        ("folder:state.json", "huggingface"),
        ("folder:dataset_dict.json", "huggingface"),
        ("folder:0.tar", "tar"),
        ("folder:0.parquet", "parquet"),
        ("folder:0.h5", "hdf5"),
        ("folder:0.txt", "imagefolder"),
        ("folder.lmdb:data.mdb", "lmdb"),
        ("photos.tar:a.jpg", "imagefolder"),
    ],
)
def test_a_path_says_what_it_is(tmp_path: Path, name: str, kind: str) -> None:
    path, _, inside = name.partition(":")
    if inside:
        (tmp_path / path).mkdir()
        (tmp_path / path / inside).touch()
    assert kind_of(tmp_path / path)[0] == kind


KEYS = st.from_regex(r"[A-Za-z_]\w{0,5}", fullmatch=True)
VALUES = st.text(st.sampled_from("ab=:/ .é\n{}*"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_value_comes_back_when_its_colons_are_escaped(values: dict[str, str]) -> None:
    written = "".join(f":{key}={value.replace(':', chr(92) + ':')}" for key, value in values.items())
    assert split_options("", written) == values


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, VALUES.filter(lambda v: "=" not in v), max_size=4))
def test_colons_need_no_escape_where_no_equals_sign_follows(values: dict[str, str]) -> None:
    assert split_options("", "".join(f":{key}={value}" for key, value in values.items())) == values


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["", *(f"{name}:" for name in source_names())]),
    st.lists(
        st.sampled_from([*"=:\\ {}*[]é\0\n3", "root", "path", "split", "=train", ":root=", ":n=", "x.h5", ".tar"])
    ),
)
def test_any_text_opens_or_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rest: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = ""
    try:
        parse_dataset(name + "".join(rest))
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem


def test_images_beside_the_files_a_folder_is_read_by_are_said_to_be_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x.jpg"))
    for n in range(3):
        (tmp_path / f"{n}.JPG").write_bytes(b"x")
    source = parse_dataset(str(tmp_path))
    assert len(source) == 1
    assert isinstance(source, LeavesOut)
    assert list(source.left_out.items()) == [
        (f".jpg: the folder is read by its other files; say ImageFolder:root={tmp_path}", 3)
    ]
    explicit = parse_dataset(f"Tar:root={tmp_path}")
    assert isinstance(explicit, LeavesOut)
    assert explicit.left_out == {}


@pytest.mark.parametrize("text", ["", "ImageFolder:root=", "ImageFolder:root=:labels=x"])
def test_a_name_that_is_empty_is_not_the_folder_one_happens_to_be_in(text: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        parse_dataset(text)
