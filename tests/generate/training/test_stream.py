from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinov3.generate.errors import GenerateError
from dinov3.generate.training.batch import DitBatch
from dinov3.generate.training.shard_set import ShardSet
from dinov3.generate.training.stream import BucketStream, Layout
from tests.generate.training.made import BUCKETS, shard_set

CPU = torch.device("cpu")
STEPS = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return ShardSet(shard_set(tmp_path_factory.mktemp("stream") / "set"))


def batches(
    shards: ShardSet, *, threads: int = 0, world: int = 1, accumulation: int = 1, position: int = 0, steps: int = STEPS
) -> list[DitBatch]:
    """The batches of all processes, step after step, in the order of the stream."""
    streams = []
    for rank in range(world):
        layout = Layout(8 // (world * accumulation), accumulation, rank, world)
        streams.append(BucketStream(shards, seed=5, position=position, layout=layout, device=CPU, threads=threads))
    try:
        return [next(stream) for _ in range(steps) for stream in streams for _ in range(accumulation)]
    finally:
        for stream in streams:
            stream.close()


def tensors(found: list[DitBatch]) -> Iterator[Tensor]:
    for name in ("latents", "cls", "patches", "text", "text_mask", "noise", "times", "categories", "positions"):
        whole = [getattr(batch, name) for batch in found]
        yield torch.cat([part.flatten() for part in whole])


def same(a: list[DitBatch], b: list[DitBatch]) -> bool:
    keys = [key for batch in a for key in batch.keys] == [key for batch in b for key in batch.keys]
    return keys and all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_batches_do_not_depend_on_threads_processes_or_accumulation(
    shards: ShardSet, threads: int, world: int, accumulation: int
) -> None:
    assert same(batches(shards), batches(shards, threads=threads, world=world, accumulation=accumulation))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2])
def test_from_the_middle_of_a_pass_it_goes_on_with_the_same_batches(shards: ShardSet, threads: int, world: int) -> None:
    later = batches(shards, threads=threads, world=world, position=3 * 8, steps=STEPS - 3)
    assert same(batches(shards, world=world)[3 * world :], later)


def test_a_batch_is_of_one_size_and_no_sample_is_two_processes(shards: ShardSet) -> None:
    for batch in batches(shards):
        assert len({tuple(batch.latents.shape[2:])}) == 1
        assert batch.patches.shape[1] == batch.grid[0] * batch.grid[1]
    first, second = batches(shards, world=2, steps=1)
    assert not set(first.positions.tolist()) & set(second.positions.tolist())
    assert first.grid == second.grid


def test_what_is_drawn_is_of_the_position_not_of_the_image(shards: ShardSet) -> None:
    found = batches(shards, steps=30)
    again = {key: [] for batch in found for key in batch.keys}  # type: ignore[var-annotated]
    for batch in found:
        for row, key in enumerate(batch.keys):
            again[key].append(float(batch.noise[row, 0, 0, 0]))
    assert len(again) == sum(BUCKETS.values())
    assert all(len(set(values)) == len(values) for values in again.values())


def test_names_say_where_a_sample_lies(shards: ShardSet) -> None:
    stream = BucketStream(shards, seed=5, position=0, layout=Layout(8, 1, 0, 1), device=CPU)
    names = stream.names_at(range(3))
    assert all(name.startswith("bucket_") and " sample " in name for name in names)


def test_a_shard_that_was_cut_is_named_when_the_set_is_opened(tmp_path: Path) -> None:
    folder = shard_set(tmp_path / "set")
    shard = min(folder.rglob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(GenerateError, match=f"{shard.name}: missing or cut"):
        ShardSet(folder)


def test_a_sample_of_another_backbone_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder = shard_set(tmp_path / "set")
    shard = min(folder.rglob("*.tar"))
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"w" * 64, b"v" * 64))
    with pytest.raises(GenerateError, match="features of another backbone"):
        batches(ShardSet(folder), threads=1, steps=20)


def test_a_set_without_texts_is_one_line(tmp_path: Path) -> None:
    folder = shard_set(tmp_path / "set")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"text_length": 4', '"text_length": 0'))
    with pytest.raises(GenerateError, match="holds no text: extract with --text"):
        ShardSet(folder)
