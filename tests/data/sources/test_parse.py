from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.sources.options import Options
from dinov3.data.sources.parse import source_names
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
    assert {"ImageFolder", "ImageNet", "Synthetic", "Tar"} <= set(source_names())


def test_options_are_taken_once_and_leftovers_are_refused() -> None:
    options = Options("X:a=1:b=2", {"a": "1", "b": "2"})
    assert options.integer("a", 0, 0) == 1
    with pytest.raises(DataError, match="X:a=1:b=2: unknown option b; there is a"):
        options.finish()
