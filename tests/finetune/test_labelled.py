"""Labelled images from any source; classes mean the same in every set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.finetune.labelled import open_beside, open_training, same_images


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
    with pytest.raises(DataError, match=r"has classes \['owl'\], which the training images do not have"):
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
