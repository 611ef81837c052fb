from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.config.schema import Config, DatasetPart
from dinov3.data.bad_samples import BadSample
from dinov3.data.errors import DataError
from dinov3.data.randomness import generator
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources import Mixture, open_dataset
from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.sources.mixture import order_of
from tests.data.fakes import Pictures
from tests.data.sources.test_same_images import hashes
from tests.data.stores import photographs, write_folder, write_hdf5, write_tar


class Named(Pictures):
    """Pictures with a name of their own."""

    def __init__(self, called: str, n: int, bad: frozenset[int] = frozenset()) -> None:
        super().__init__(n, bad)
        self.called = called

    def name(self, index: int) -> str:
        return f"{self.called}-{index}"

    def fingerprint(self) -> str:
        return f"{self.called}-{self.n}"


def mixture(*sizes: int, weights: list[float] | None) -> Mixture:
    names = [f"set{i}" for i in range(len(sizes))]
    return Mixture(names, [Named(name, n) for name, n in zip(names, sizes, strict=True)], weights)


def test_an_index_counts_through_the_parts() -> None:
    joined = mixture(3, 1, 2, weights=None)
    assert [joined.name(i) for i in range(len(joined))] == ["set0-0", "set0-1", "set0-2", "set1-0", "set2-0", "set2-1"]
    assert np.array_equal(joined.read(4), Pictures().read(0))


def test_joined_datasets_are_one_with_every_image_once_an_epoch() -> None:
    joined = mixture(30, 5, 65, weights=None)
    epochs, indices = order_of(joined).samples_at(np.arange(200), 0)
    assert epochs.tolist() == [0] * 100 + [1] * 100
    assert sorted(indices[:100].tolist()) == sorted(indices[100:].tolist()) == list(range(100))
    alone = order_of(Pictures(100)).samples_at(np.arange(200), 0)
    assert np.array_equal(indices, alone[1])


def test_the_loader_gives_the_joined_and_the_mixed_in_that_order(cfg: Config) -> None:
    mixed = mixture(20, 40, weights=[1, 1])
    writer = SampleWriter.from_config(cfg, mixed, 0, 1)
    heard: list[int] = []
    mixed.read = lambda index: heard.append(index) or Pictures().read(0)  # type: ignore[func-returns-value,method-assign,assignment]
    writer.fill(torch.zeros(writer.resolution_at(64).layout.nbytes, dtype=torch.uint8), 64, 0, 8)
    assert heard == mixed.order.samples_at(np.arange(64, 72), cfg.train.seed)[1].tolist()


def test_substitutes_come_from_the_dataset_of_the_bad_image(cfg: Config) -> None:
    parts = [Named("good", 40), Named("bad", 40, frozenset(range(0, 40, 2)))]
    writer = SampleWriter.from_config(cfg, Mixture(["a", "b"], parts, [1, 1]), 0, 1)
    read: list[int] = []
    original = parts[0].read
    parts[0].read = lambda index: read.append(index) or original(index)  # type: ignore[func-returns-value,method-assign,assignment]
    bad: list[BadSample] = []
    for index in range(40, 80, 2):
        writer.image_of(0, index, bad)
    assert len(bad) >= 20
    assert {sample.name.split("-")[0] for sample in bad} == {"bad"}
    assert read == []


def test_one_dataset_draws_its_substitutes_as_ever(cfg: Config) -> None:
    writer = SampleWriter.from_config(cfg, Pictures(50, frozenset({7})), 0, 1)
    expected = int(generator(cfg.train.seed, "substitute", 3, 7, 1).integers(50))
    assert np.array_equal(writer.image_of(3, 7, []), Pictures().read(expected))


def test_lists_of_datasets_open_as_users_write_them(tmp_path: Path, cfg: Config) -> None:
    files = photographs(12)
    labels = [0] * 12
    paths = [
        write_folder(tmp_path / "a", files, labels),
        write_tar(tmp_path / "b", files, labels),
        write_hdf5(tmp_path / "c", files, labels),
    ]
    assert isinstance(open_dataset(paths[0]), ImageFolder)
    joined = open_dataset(paths)
    assert len(joined) == 36
    mixed = open_dataset([DatasetPart(path, weight) for path, weight in zip(paths, (1, 2, 1), strict=True)])
    assert isinstance(mixed, Mixture)
    assert mixed.shares == [0.25, 0.5, 0.25]
    assert mixed.table()[1] == f" 50.0 %             12 images  {paths[1]}"
    assert hashes(cfg, mixed, workers=2, start_method="fork") == hashes(cfg, mixed)


def test_mixtures_that_cannot_be_are_one_line() -> None:
    with pytest.raises(DataError, match="give it to all or to none"):
        open_dataset([DatasetPart("Synthetic", 1), DatasetPart("Synthetic:seed=2")])
    with pytest.raises(DataError, match="/no/such: there is no such folder"):
        open_dataset(["Synthetic", "/no/such"])
    with pytest.raises(DataError, match="weight 1e-06 is less than 1/65536 of all weights"):
        mixture(5, 5, weights=[1e-6, 1])
    with pytest.raises(DataError, match="set1: contains no images"):
        mixture(5, 0, weights=[1, 1])


def test_the_fingerprint_changes_with_parts_weights_and_order() -> None:
    prints = [
        mixture(5, 6, weights=None).fingerprint(),
        mixture(5, 6, weights=[1, 1]).fingerprint(),
        mixture(5, 6, weights=[1, 2]).fingerprint(),
        mixture(5, 7, weights=[1, 1]).fingerprint(),
        mixture(6, 5, weights=[1, 1]).fingerprint(),
    ]
    assert len(set(prints)) == 5
    assert mixture(5, 6, weights=[2, 2]).fingerprint() == prints[1]


def test_classes_of_different_datasets_are_not_compared() -> None:
    synthetic = open_dataset(["Synthetic:n=5", "Synthetic:n=5:seed=2"])
    assert synthetic.label(3) is None


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5), data=st.data())
def test_every_position_names_an_image_of_the_dataset_it_is_counted_for(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    order = mixture(*sizes, weights=weights).order
    start = data.draw(st.integers(0, 10**12))
    _, indices = order.samples_at(np.arange(start, start + 50), data.draw(st.integers(0, 9)))
    owners = Counter(order.dataset_of(int(index)).start for index in indices)
    assert set(owners) <= {sum(sizes[:i]) for i in range(len(sizes))}
