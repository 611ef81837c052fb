from __future__ import annotations

import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.synthetic import Synthetic
from dinov3.dense.sets import Mirrored, few, images_of, open_parts, read_both
from dinov3.dense.truth_files import check_labels, read_depth, read_mask
from tests.dense.conftest import save


def put(root: Path, names: list[str], images: str, masks: str) -> None:
    for i, name in enumerate(names):
        save(np.full((4, 6, 3), i, dtype=np.uint8), root / images / f"{name}.png")
        save(np.full((4, 6), i, dtype=np.uint8), root / masks / f"{name}.png")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("images/training", "annotations/training"), ("images/validation", "annotations/validation")),
        (("train/images", "train/masks"), ("val/images", "val/masks")),
        (("images/train", "labels/train"), ("images/test", "labels/test")),
        (("train/images", "train/masks"), ("valid/images", "valid/masks")),
        (("images/training", "masks/training"), ("images/val", "masks/val")),
    ],
)
def test_the_parts_are_found_in_every_usual_layout(
    tmp_path: Path, train: tuple[str, str], test: tuple[str, str]
) -> None:
    put(tmp_path, ["a", "b", "c"], *train)
    put(tmp_path, ["d"], *test)
    first, second = open_parts(str(tmp_path), "mask")
    assert (len(first), len(second)) == (3, 1)
    assert first.truth(2).max() == 2


def test_without_parts_every_fifth_image_is_held_out(tmp_path: Path) -> None:
    put(tmp_path, [f"{i:02d}" for i in range(11)], "images", "masks")
    first, second = open_parts(str(tmp_path), "mask")
    assert [Path(second.name(i)).stem for i in range(len(second))] == ["04", "09"]
    assert len(first) == 9
    assert first.fingerprint() != second.fingerprint()
    pixels, truth = read_both(second, 0)
    assert pixels.shape == (4, 6, 3)
    assert truth.dtype == np.int32


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    put(tmp_path, ["a", "b"], "images", "masks")
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"no mask b\.png"):
        open_parts(str(tmp_path), "mask")


def test_files_of_one_name_in_folders_of_their_own_are_paired_by_place(tmp_path: Path) -> None:
    for number, scene in enumerate("ab"):
        put(tmp_path, [f"{scene}/{i:03d}" for i in range(5)], "images", "masks")
        save(np.full((4, 6), 7 + number, dtype=np.uint8), tmp_path / "masks" / scene / "000.png")
    first, _ = open_parts(str(tmp_path), "mask")
    assert [(first.name(i)[-9:], int(first.truth(i).max())) for i in (0, 4)] == [("a/000.png", 7), ("b/000.png", 8)]


def test_names_alone_pair_where_each_occurs_once_and_two_of_a_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path, [f"{i}" for i in range(5)], "images/left", "masks")
    assert len(open_parts(str(tmp_path), "mask")[0]) == 4
    put(tmp_path, ["3"], "images/right", "elsewhere")
    with pytest.raises(DataError, match=r"right/3\.png: has the name of .*left/3\.png: which belongs to which"):
        open_parts(str(tmp_path), "mask")


@pytest.mark.parametrize("other", ["images/2.jpg", "masks/2.tif"])
def test_two_files_of_one_name_and_place_are_refused(tmp_path: Path, other: str) -> None:
    put(tmp_path, [f"{i}" for i in range(5)], "images", "masks")
    save(np.zeros((4, 6), dtype=np.uint8), tmp_path / other)
    with pytest.raises(DataError, match=r"has the name of .*: which belongs to which cannot be told; rename one"):
        open_parts(str(tmp_path), "mask")


@pytest.mark.parametrize(("there", "other"), [("training", "validation"), ("val", "training")])
def test_one_part_without_the_other_is_not_taken_for_the_whole(tmp_path: Path, there: str, other: str) -> None:
    put(tmp_path, [f"{i}" for i in range(10)], f"images/{there}", f"masks/{there}")
    with pytest.raises(DataError, match=f"a part without another: images and masks both need {other}, too"):
        open_parts(str(tmp_path), "mask")


def test_another_time_of_writing_is_another_version_and_mirrored_another_set(tmp_path: Path) -> None:
    put(tmp_path, [f"{i}" for i in range(5)], "images", "masks")
    first, _ = open_parts(str(tmp_path), "mask")
    before = first.version()
    save(np.zeros((4, 6, 3), dtype=np.uint8), tmp_path / "images" / "0.png")
    assert open_parts(str(tmp_path), "mask")[0].version() != before
    mirrored = Mirrored(first)
    assert mirrored.fingerprint() != first.fingerprint()
    assert np.array_equal(mirrored.read(1), read_both(first, 1)[0][:, ::-1])


def test_the_synthetic_set_has_both_truths() -> None:
    for kind, most in (("mask", 14), ("depth", 100)):
        first, second = open_parts("Synthetic:n=10:size=32", kind)
        assert (len(first), len(second)) == (8, 2)
        assert 1 < read_both(first, 0)[1].max() <= most


def test_a_data_set_without_a_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder images"):
        open_parts(str(tmp_path), "depth")
    with pytest.raises(DataError, match="there is no such path"):
        open_parts("nothing", "mask")


def test_palette_indices_are_the_classes_and_colours_are_not(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.array([[0, 3]], dtype=np.uint8), mode="P")
    image.putpalette([7, 8, 9] * 256)
    image.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png").tolist() == [[0, 3]]
    save(np.zeros((2, 2, 3), dtype=np.uint8), tmp_path / "c.png")
    with pytest.raises(BadImage, match="not colours"):
        read_mask(tmp_path / "c.png")


def test_depth_is_in_metres_and_needs_sixteen_bits(tmp_path: Path) -> None:
    save(np.array([[0, 1500, 65535]], dtype=np.uint16), tmp_path / "d.png")
    assert read_depth(tmp_path / "d.png", 1000).tolist() == [[0.0, 1.5, pytest.approx(65.535)]]
    save(np.zeros((2, 2), dtype=np.uint8), tmp_path / "8.png")
    with pytest.raises(BadImage, match="not 16 bit"):
        read_depth(tmp_path / "8.png", 1000)


def test_a_number_outside_the_classes_is_named_with_its_count() -> None:
    check_labels(np.array([[0, 2, 255]]), 3, 255)
    with pytest.raises(BadImage, match="label 3 on 2 pixels, outside the 3 classes"):
        check_labels(np.array([[3, 3, 1]]), 3, 255)


def test_a_few_are_spread_over_the_whole_set(tmp_path: Path) -> None:
    put(tmp_path, [f"{i:02d}" for i in range(25)], "images", "masks")
    train = open_parts(str(tmp_path), "mask")[0]
    some = few(train, 5)
    assert [Path(some.name(i)).stem for i in range(len(some))] == ["00", "05", "11", "17", "23"]
    assert few(train, 0) is few(train, 20) is train
    assert some.fingerprint() != few(train, 4).fingerprint()


@pytest.mark.parametrize("images", ["images", "val/images", "images/val"])
def test_the_images_of_a_folder_with_truths_are_those_without_the_truths(tmp_path: Path, images: str) -> None:
    put(tmp_path, ["a", "b"], images, images.replace("images", "masks"))
    found = images_of(str(tmp_path))
    assert sorted(Path(found.name(i)).name for i in range(len(found))) == ["a.png", "b.png"]
    assert len(images_of(str(tmp_path / images))) == 2, "a folder of images alone"
    assert len(images_of("Synthetic:n=7:size=32")) == 7


@pytest.mark.parametrize("kind", ["mask", "depth"])
def test_a_landscape_is_made_once_for_its_picture_and_its_truth(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, made = Synthetic(n=40, size=32), Counter[int]()
    make = Synthetic.scene

    def counting(source: Synthetic, index: int, *moved: Any) -> Any:
        made[index] += 1
        return make(source, index, *moved)

    monkeypatch.setattr(Synthetic, "scene", counting)
    dense = pickle.loads(pickle.dumps(open_parts("Synthetic:n=40:size=32", kind)[1]))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: read_both(dense, i), range(len(dense))))
    assert set(made.values()) == {1}
    monkeypatch.undo()
    for place, (pixels, truth) in enumerate(found):
        scene = plain.scene(5 * place + 4)
        assert np.array_equal(pixels, scene.image)
        assert np.array_equal(truth, scene.segmentation if kind == "mask" else scene.depth)


def test_a_truth_of_a_landscape_that_was_changed_is_whole_when_it_is_asked_for_again() -> None:
    dense = open_parts("Synthetic:n=10:size=32", "depth")[0]
    _, truth = read_both(dense, 0)
    kept = truth.copy()
    truth[:] = 0
    assert np.array_equal(dense.truth(0), kept)
    assert np.array_equal(read_both(dense, 0)[1], kept)
    dense.read(0)
    assert not np.array_equal(dense.truth(1), kept), "the one that is kept is of another image"
