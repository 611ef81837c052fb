"""The same image files give the same batches, however they are stored."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.loader import CropLoader
from dinov3.data.sources import Source, parse_dataset
from tests.data.stores import STORES, photographs

LABELS = [3, 1, 0, 2, 1, 1, 0, 3, 2, 2, 0, 1]


def sha256(batch: CropBatch) -> dict[str, str]:
    """Of every tensor of a batch."""
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return {name: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for name, t in tensors.items()}


def hashes(cfg: Config, source: Source, workers: int = 0, start_method: str | None = None) -> list[dict[str, str]]:
    cfg.train.num_workers = workers
    cfg.crops.gram_teacher_crops_size, cfg.crops.global_crops_clean = 48, True
    place = {"position": 5, "rank": 0, "world_size": 1, "device": torch.device("cpu"), "dtype": torch.float32}
    with CropLoader(cfg, source, start_method=start_method, **place) as stream:  # type: ignore[arg-type]
        return [sha256(next(stream)) for _ in range(3)]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all stores are written, once."""
    root = tmp_path_factory.mktemp("stores")
    for name, write in STORES.items():
        (root / f"{name}.name").write_text(write(root / name.replace(" ", "_"), photographs(), LABELS))
    return root


def opened(root: Path, name: str) -> Source:
    return parse_dataset((root / f"{name}.name").read_text())


@pytest.mark.parametrize("name", STORES)
def test_batches_do_not_depend_on_the_store(cfg: Config, wanted: Path, name: str) -> None:
    reference = hashes(cfg, opened(wanted, "folder"))
    assert len(reference[0]) >= 7
    assert len({batch["collated_global_crops"] for batch in reference}) == 3
    assert hashes(cfg, opened(wanted, name)) == reference


@pytest.mark.parametrize("name", STORES)
def test_bytes_labels_and_names_are_those_that_were_stored(wanted: Path, name: str) -> None:
    source, files = opened(wanted, name), photographs()
    assert [source.read(i) for i in range(len(source))] == list(files.values())
    if name != "folder":  # its classes are sub-folders
        assert [source.label(i) for i in range(len(source))] == LABELS
    assert len({source.name(i) for i in range(len(source))}) == len(files)
    assert opened(wanted, name).fingerprint() == source.fingerprint()


def read_all(source: Source, connection: multiprocessing.connection.Connection) -> None:
    connection.send([source.read(i) for i in range(len(source))])


@pytest.mark.parametrize("name", STORES)
def test_a_source_that_was_read_from_can_be_forked_and_pickled(wanted: Path, name: str) -> None:
    source = opened(wanted, name)
    here = [source.read(i) for i in range(len(source))]
    data = pickle.dumps(source)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert [copy.read(i) for i in range(len(source))] == here
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=read_all, args=(source, theirs))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == here
    child.join(60)
    assert child.exitcode == 0
    assert [source.read(i) for i in range(len(source))] == here


@pytest.mark.parametrize("name", ["hdf5", "lmdb", "parquet", "hugging face"])
def test_workers_that_got_it_pickled_give_the_same_batches(cfg: Config, wanted: Path, name: str) -> None:
    """Spawned ones get it so too, and each of them imports torch (tests/data/test_loader.py has some)."""
    source = opened(wanted, name)
    alone = hashes(cfg, source)
    assert hashes(cfg, source, workers=2, start_method="forkserver") == alone


def test_the_reference_has_images_of_every_kind() -> None:
    contents = list(photographs().values())
    assert contents[5].startswith(b"\x89PNG")
    assert len(set(contents)) == 12
    assert np.mean([content.startswith(b"\xff\xd8") for content in contents]) == 11 / 12
