from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from dinov3.data.sources import synthetic
from dinov3.data.sources.synthetic import SHAPES, TEXTURES, Synthetic
from dinov3.data.sources.world import OBJECT, PLAIN, SKY, SKY_DISTANCE, foot


def test_a_picture_is_a_function_of_seed_and_index() -> None:
    first, again = Synthetic(size=48), pickle.loads(pickle.dumps(Synthetic(size=48)))
    assert np.array_equal(first.read(5), again.read(5))
    assert not np.array_equal(first.read(5), first.read(6))
    assert not np.array_equal(first.read(5), Synthetic(size=48, seed=1).read(5))


@pytest.mark.parametrize("size", [16, 33, 96, 224])
def test_picture_segmentation_and_depth_have_one_size(size: int) -> None:
    source = Synthetic(size=size)
    assert source.read(0).shape == (size, size, 3)
    assert source.read(0).dtype == source.segmentation(0).dtype == np.uint8
    assert source.segmentation(0).shape == source.depth(0).shape == (size, size)
    assert source.depth(0).dtype == np.float32


def test_the_object_in_the_segmentation_is_the_one_of_the_label() -> None:
    source = Synthetic(size=64)
    for index in range(60):
        objects = set(np.unique(source.segmentation(index))) - set(range(OBJECT))
        assert objects == {OBJECT + source.label(index)}
        assert (source.segmentation(index) >= OBJECT).mean() > 0.02


def test_the_object_stands_in_front_and_the_sky_behind_everything() -> None:
    source = Synthetic(size=64)
    for index in range(40):
        segments, depth = source.segmentation(index), source.depth(index)
        assert (depth[segments == SKY] == SKY_DISTANCE).all()
        assert depth[segments != SKY].max() < SKY_DISTANCE
        on_object = segments >= OBJECT
        assert depth[on_object].max() < 2  # nothing else comes nearer than 2.3
        assert depth.min() > 0.5


def test_the_edge_of_the_object_is_where_picture_and_depth_jump() -> None:
    """Across the object's outline the colour changes more than elsewhere; one pixel beside it does not."""
    source, on_edge, beside = Synthetic(size=96), [], []
    for index in range(60):
        inside = source.segmentation(index) >= OBJECT
        step = np.abs(np.diff(source.read(index).astype(float), axis=1)).sum(2)
        edge = inside[:, 1:] != inside[:, :-1]
        edge[:, :6] = edge[:, -6:] = False
        on_edge.append(step[edge].mean())
        beside.append(step[np.roll(edge, 4, axis=1)].mean())
        jump = np.abs(np.diff(source.depth(index), axis=1))[edge]
        assert np.median(jump) > 0.05
    assert np.mean(on_edge) > 2 * np.mean(beside)


def test_near_objects_fill_the_picture() -> None:
    def area(near: int) -> float:
        source = Synthetic(size=48, near=near)
        return float(np.mean([(source.segmentation(i) >= OBJECT).mean() for i in range(40)]))

    assert area(2) > 1.8 * area(1)


def test_the_plain_comes_nearer_towards_the_bottom() -> None:
    source = Synthetic(size=64)
    segments, depth = source.segmentation(0), source.depth(0)
    column = np.flatnonzero((segments[-20:] == PLAIN).all(0))[0]
    assert (np.diff(depth[-20:, column]) < 0).all()
    assert depth[-1, column] == pytest.approx(1, abs=0.05)


def test_classes_are_even_and_the_mean_colour_does_not_tell_them() -> None:
    source = Synthetic(size=24, classes=10)
    labels = np.array([source.label(i) for i in range(2000)])
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33  # chi-squared, 9 degrees of freedom: 1 in 7000
    means = np.stack([source.read(i).mean((0, 1)) for i in range(600)])
    train, test = np.arange(300), np.arange(300, 600)
    distance = ((means[test, None] - means[None, train]) ** 2).sum(2)
    votes = np.stack([np.bincount(labels[row], minlength=10) for row in distance.argsort(1)[:, :10]])
    accuracy = (votes.argmax(1) == labels[test]).mean()
    assert accuracy < 0.18  # chance is 0.1


def test_the_class_shows_in_the_outline() -> None:
    """Even without rotation, scale or colour, nearest neighbours of outlines tell the shape: it is in the picture."""
    source, outlines = Synthetic(size=64), []
    for index in range(400):
        rows, columns = np.nonzero(source.segmentation(index) >= OBJECT)
        mask = (source.segmentation(index) >= OBJECT)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        grid = np.linspace(0, 0.999, 16)
        outlines.append(mask[(grid * mask.shape[0]).astype(int)][:, (grid * mask.shape[1]).astype(int)].ravel())
    flat, labels = np.array(outlines, dtype=float), np.array([source.label(i) for i in range(400)])
    distance = ((flat[200:, None] - flat[None, :200]) ** 2).sum(2)
    assert (labels[distance.argmin(1)] == labels[200:]).mean() > 0.7


def test_beyond_ten_classes_the_texture_counts() -> None:
    source = Synthetic(size=32, classes=50)
    labels = {source.label(i) for i in range(1500)}
    assert labels == set(range(50))
    assert len(SHAPES) * len(TEXTURES) == 50


def test_a_body_stands_on_its_foot() -> None:
    assert foot(SHAPES["ball"], 0.3) == pytest.approx(0.86, abs=0.03)
    assert foot(SHAPES["box"], 0.0) == pytest.approx(0.72, abs=0.03)
    assert foot(SHAPES["box"], np.pi / 4) == pytest.approx(0.72 * np.sqrt(2), abs=0.05)


def test_a_picture_is_drawn_once_and_whoever_reads_it_may_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Synthetic(n=10, size=32)
    first = source.read(3)
    before = first.copy()
    first[:] = 0
    monkeypatch.setattr(Synthetic, "scene", None)  # drawing again would fail
    assert np.array_equal(source.read(3), before)


def test_pictures_are_kept_up_to_a_number_of_bytes_and_do_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "KEPT", 2 * 32 * 32 * 3)
    source = Synthetic(n=10, size=32)
    read = [source.read(index) for index in range(4)]
    assert list(source._drawn) == [0, 1]
    assert all(np.array_equal(source.read(index), picture) for index, picture in enumerate(read))
    elsewhere = pickle.loads(pickle.dumps(source))
    assert elsewhere._drawn == {}
    assert np.array_equal(elsewhere.read(1), read[1])
    assert list(source._drawn) == [0, 1], "what travels is a copy"


def test_an_index_beyond_the_end_is_refused() -> None:
    with pytest.raises(IndexError):
        Synthetic(n=3).read(3)


def test_a_picture_of_96_pixels_takes_milliseconds() -> None:
    source = Synthetic(size=96)
    source.scene(0)
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for index in range(20):
            source.scene(index)
        rounds.append((time.process_time() - started) / 20)
    assert min(rounds) < 0.02  # of the CPU; 1.4 ms on one core of a Xeon, and slower ones are not to fail


def test_a_name_says_what_is_to_be_seen() -> None:
    source = Synthetic()
    assert list(SHAPES)[source.label(4)] in source.name(4)
