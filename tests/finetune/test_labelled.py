"""Labelled images from any source; classes mean the same in every set."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.finetune.labelled import classes_missing, open_beside, open_training, same_images, shared_with


def folder(path: Path, *names: str, each: int = 2, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    for name in names:
        (path / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return str(path)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    train, classes = open_training(folder(tmp_path / "train", "cat", "dog", "fox"), None)
    assert (classes, train.names) == (3, ["cat", "dog", "fox"])
    other = open_beside(folder(tmp_path / "test", "dog", "fox", seed=1), "evaluation.test", train, classes)
    assert other.labels.tolist() == [1, 1, 2, 2]
    with pytest.raises(DataError, match=r"has classes \['owl'\], which the training images do not have: leave"):
        open_beside(folder(tmp_path / "more", "cat", "owl"), "evaluation.test", train, classes)


def test_a_list_with_labels_is_read_as_well_and_numbers_stay(tmp_path: Path) -> None:
    folder(tmp_path / "a", "x", each=4)
    path = tmp_path / "list.csv"
    path.write_text("path,label\n" + "".join(f"a/x/{i}.png,{(0, 2, 1, 2)[i]}\n" for i in range(4)))
    train, classes = open_training(str(path), None)
    assert (classes, train.names, train.labels.tolist()) == (3, None, [0, 2, 1, 2])
    assert open_training(str(path), 5)[1] == 5
    with pytest.raises(DataError, match=r"has class 2, train\.classes allows 0 to 1 \(2 such images\)"):
        open_training(str(path), 2)


def test_images_without_a_class_are_named(tmp_path: Path) -> None:
    folder(tmp_path / "flat", ".")
    with pytest.raises(DataError, match="has no label: fine-tuning needs class subfolders or labels"):
        open_training(str(tmp_path / "flat"), None)


def test_the_same_images_elsewhere_are_the_same(tmp_path: Path) -> None:
    one, _ = open_training(folder(tmp_path / "one", "a", "b"), None)
    two, _ = open_training(folder(tmp_path / "two", "a", "b"), None)
    three, _ = open_training(folder(tmp_path / "three", "a", "b", seed=3), None)
    assert same_images(one, two)
    assert not same_images(one, three)


def test_the_positive_class_is_number_one_of_every_set(tmp_path: Path) -> None:
    data = folder(tmp_path / "train", "cancer", "normal")
    assert open_training(data, None, "normal")[0].names == ["cancer", "normal"]
    train, classes = open_training(data, None, "cancer")
    assert (train.names, train.labels.tolist()) == (["normal", "cancer"], [1, 1, 0, 0])
    other = open_beside(folder(tmp_path / "test", "cancer", "normal", seed=1), "evaluation.test", train, classes)
    assert other.labels.tolist() == [1, 1, 0, 0]
    with pytest.raises(DataError, match=r"train\.positive: 'sick': the classes of .* are 'cancer' and 'normal'"):
        open_training(data, None, "sick")
    with pytest.raises(DataError, match=r"train\.positive: is for two classes, .* has 3"):
        open_training(folder(tmp_path / "three", "a", "b", "c"), None, "a")


def test_numbers_have_a_positive_class_too(tmp_path: Path) -> None:
    folder(tmp_path / "a", "x", each=2)
    path = tmp_path / "list.csv"
    path.write_text("path,label\na/x/0.png,0\na/x/1.png,1\n")
    train, _ = open_training(str(path), None, "0")
    assert train.labels.tolist() == [1, 0]
    assert open_beside(str(path), "evaluation.test", train, 2).labels.tolist() == [1, 0]


def test_images_that_are_in_both_sets_are_counted_in_any_store_and_a_whole_copy_is_refused(tmp_path: Path) -> None:
    train, _ = open_training(folder(tmp_path / "train", "a", "b", each=4), None)
    new, _ = open_training(folder(tmp_path / "new", "a", "b", seed=1), None)
    assert shared_with(train, new, "evaluation.test") == []
    for number in range(3):
        path = tmp_path / "new" / "b" / f"copy{number}.png"
        path.write_bytes((tmp_path / "train" / "a" / f"{number}.png").read_bytes())
    mixed, _ = open_training(str(tmp_path / "new"), None)
    (note,) = shared_with(train, mixed, "evaluation.test")
    assert note.startswith("note: 3 of 7 images of evaluation.test are in ")
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\n" + "".join(f"train/{c}/{i}.png,{c}\n" for c in "ab" for i in range(4)))
    with tarfile.open(tmp_path / "same.tar", "w") as tar:
        for c in "ba":
            for i in range(4):
                tar.add(tmp_path / "train" / c / f"{i}.png", f"{c}{i}.png")
                (tmp_path / "label").write_text(str("ab".index(c)))
                tar.add(tmp_path / "label", f"{c}{i}.cls")
    for copy in (str(listed), str(tmp_path / "same.tar")):
        with pytest.raises(DataError, match=r"evaluation\.test: .* holds the images of "):
            shared_with(train, open_training(copy, None)[0], "evaluation.test")


def test_classes_without_an_image_are_named(tmp_path: Path) -> None:
    train, classes = open_training(folder(tmp_path / "train", *"abc"), None)
    other = open_beside(folder(tmp_path / "test", "a", "c", seed=1), "evaluation.test", train, classes)
    (note,) = classes_missing(train, other, "evaluation.test")
    assert "evaluation.test has no image of 'b'" in note
    assert classes_missing(train, train, "evaluation.test") == []
