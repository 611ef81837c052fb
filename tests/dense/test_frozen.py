from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3.dense.frozen import Maps, maps_of, views_of
from dinov3.dense.sets import DenseSet, open_parts
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor, load
from tests.dense.conftest import write_quarters


@pytest.fixture
def extractor(weights: Path) -> FeatureExtractor:
    return load(weights, size=32, device="cpu", dtype="fp32")


@pytest.fixture
def images(tmp_path: Path) -> DenseSet:
    (write_quarters(tmp_path / "quarters") / "images" / "03.png").write_bytes(b"no picture")
    return open_parts(str(tmp_path / "quarters"), "mask")[0]


def test_features_kept_in_memory_are_those_kept_in_a_folder(
    extractor: FeatureExtractor, images: DenseSet, tmp_path: Path
) -> None:
    memory: dict[str, Maps] = {}
    kept = maps_of(extractor, images, memory, max_bad_frac=0.5)
    stored = maps_of(extractor, images, tmp_path / "cache", max_bad_frac=0.5)
    assert torch.equal(kept.maps, stored.maps)
    assert kept.maps.stride() == stored.maps.stride(), "sums over them come in the same order"
    assert (kept.index, kept.skipped) == (stored.index, stored.skipped)
    assert [Path(row["name"]).name for row in kept.skipped] == ["03.png"]
    assert maps_of(extractor, images, memory, max_bad_frac=0.5) is kept
    mirrored = views_of(extractor, images, memory, flip=True, max_bad_frac=0.5)[1]
    assert mirrored is not None
    assert not torch.equal(mirrored.maps, kept.maps)
    assert len(memory) == 2


def test_a_set_without_an_image_that_can_be_read_is_an_error_that_names_one(
    extractor: FeatureExtractor, images: DenseSet, tmp_path: Path
) -> None:
    for path in (tmp_path / "quarters" / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(FeatureError, match=r"no image of this set can be read: .*00\.png"):
        maps_of(extractor, images, {}, max_bad_frac=1.0)
