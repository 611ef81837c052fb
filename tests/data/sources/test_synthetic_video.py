from __future__ import annotations

import numpy as np
import pytest

from dinov3.data.sources.synthetic import Moved, Synthetic
from dinov3.data.sources.synthetic_video import SyntheticVideo
from dinov3.data.sources.world import OBJECT, PLANT


def test_a_still_moment_is_the_picture_itself() -> None:
    source = Synthetic(size=48)
    for index in range(5):
        assert np.array_equal(source.scene(index, Moved()).image, source.read(index))


def test_only_what_moves_changes() -> None:
    source = Synthetic(size=64)
    here, there = source.scene(3), source.scene(3, Moved(across=0.2))
    columns = [np.nonzero(scene.segmentation >= OBJECT)[1].mean() for scene in (here, there)]
    far = (here.segmentation < 2) & (there.segmentation < 2)  # sky and hills
    assert columns[1] - columns[0] == pytest.approx(0.2 * 64, abs=4)
    same = (here.image[far] == there.image[far]).all(1)
    assert same.mean() > 0.97  # an outline is blended into what is behind it


def test_the_object_crosses_is_hidden_for_a_while_and_comes_back_after_the_cut() -> None:
    film = SyntheticVideo(n=3, length=30, size=96)
    for index in range(3):
        masks = [mask for _, mask in film.frames(index)]
        areas = np.array([mask.sum() for mask in masks])
        away = [film.is_cut_away(t) for t in range(30)]
        assert sum(away) == 3
        assert (areas[away] == 0).all()
        assert (areas[~np.array(away)] > 0).all()
        middles = [np.nonzero(mask)[1].mean() / 96 for mask in (masks[0], masks[-1])]
        assert abs(middles[1] - middles[0]) > 0.5
        assert areas[5:18].min() < 0.7 * areas[0]  # behind the tree
        assert areas[-1] > 0.7 * areas[0]


def test_without_tree_or_cut_nothing_hides_the_object() -> None:
    film = SyntheticVideo(n=1, length=12, size=64, cut=False, occlusion=False)
    areas = np.array([mask.sum() for _, mask in film.frames(0)])
    assert areas.min() > 0.7 * areas.max()
    assert not (film.scene(0, 0).segmentation[:, :3] == PLANT).all()


def test_a_frame_is_a_function_of_seed_film_and_number() -> None:
    film = SyntheticVideo(n=2, length=5, size=32)
    assert np.array_equal(film.scene(1, 3).image, SyntheticVideo(n=2, length=5, size=32).scene(1, 3).image)
    assert not np.array_equal(film.scene(1, 3).image, film.scene(0, 3).image)
    with pytest.raises(IndexError):
        film.scene(0, 5)
