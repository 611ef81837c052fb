from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.data.errors import TooManyBadSamples
from dinov3.data.sources import parse_dataset
from dinov3.features import cache, shards
from dinov3.features.cache import FeatureKind, FeatureSet, cached_features, weights_digest
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.models.vit import DinoVisionTransformer

SOURCE = parse_dataset("Synthetic:n=150:size=24")
PREPROCESS = Preprocess((0.5,) * 3, (0.2,) * 3, 8, 16)


class Counting(DinoVisionTransformer):
    images = 0

    def encode(self, entries, masks, read=None):  # type: ignore[no-untyped-def]
        Counting.images += len(entries[0])
        return super().encode(entries, masks, read)


def extractor(seed: int = 0, preprocess: Preprocess = PREPROCESS) -> FeatureExtractor:
    model = Counting(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2, pos_embed_rope_dtype="fp32")
    model.init_weights(torch.Generator().manual_seed(seed))
    Counting.images = 0
    return FeatureExtractor(model.eval(), preprocess, device="cpu", threads=2)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)  # the least: 64 images


def features(extractor: FeatureExtractor, out: Path, **kind: str) -> FeatureSet:
    return cached_features(extractor, SOURCE, out, FeatureKind(**kind), quiet=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", shards.FORMATS)
@pytest.mark.usefixtures("small_shards")
def test_a_set_holds_what_extract_gives_with_labels_and_a_second_call_runs_no_forward(
    tmp_path: Path, form: str
) -> None:
    run = extractor()
    got, labels = features(run, tmp_path, format=form).pooled()
    wanted = run.extract([SOURCE.read(i) for i in range(150)], pool="cls")
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert labels is not None
    assert labels.tolist() == [SOURCE.label(i) for i in range(150)]
    Counting.images = 0
    again, _ = features(run, tmp_path, format=form).pooled()
    assert Counting.images == 0
    torch.testing.assert_close(again, got, rtol=0, atol=0)


def test_other_weights_or_another_transform_are_computed_anew(tmp_path: Path) -> None:
    first = features(extractor(), tmp_path)
    for changed in ({"seed": 1}, {"preprocess": Preprocess((0.5,) * 3, (0.2,) * 3, 8, 24)}):
        new = features(extractor(**changed), tmp_path)  # type: ignore[arg-type]
        assert Counting.images == 150
        assert new.folder != first.folder
    nudged = extractor()
    with torch.no_grad():
        nudged.backbone.cls_token[0, 0, 0] += 1e-6  # type: ignore[operator,index]
    assert features(nudged, tmp_path).folder != first.folder


@pytest.mark.usefixtures("small_shards")
def test_a_killed_call_leaves_nothing_partial_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = extractor(), []

    def dies_in_the_second(folder, name, *args):  # type: ignore[no-untyped-def]
        if name == "00001":
            (folder / ".tmp-0123-00001.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(name)
        shards.write_shard(folder, name, *args)

    monkeypatch.setattr(cache, "write_shard", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        features(run, tmp_path)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(FeatureError, match="unfinished"):
        FeatureSet(folder)
    monkeypatch.setattr(cache, "write_shard", shards.write_shard)
    Counting.images = 0
    resumed, _ = features(run, tmp_path).pooled()
    assert Counting.images == 150 - 64
    torch.testing.assert_close(resumed, features(run, tmp_path / "other").pooled()[0], rtol=0, atol=0)
    assert not list(folder.glob(".tmp*"))


def test_a_damaged_shard_is_not_read(tmp_path: Path) -> None:
    found = features(extractor(), tmp_path)
    shard = found.folder / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FeatureError, match="not as it was written"):
        found.pooled()


@pytest.mark.usefixtures("small_shards")
def test_what_is_damaged_or_gone_is_computed_again_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = extractor()
    before, _ = (found := features(run, tmp_path)).pooled()
    (found.folder / "00001.safetensors").write_bytes(b"half")
    (found.folder / "00002.safetensors").unlink()
    Counting.images = 0
    after, _ = features(run, tmp_path).pooled()
    assert Counting.images == 150 - 64
    assert torch.equal(after, before)
    assert "00001, 00002 not as written" in caplog.text


def test_half_precision_halves_the_file_and_keeps_the_direction(tmp_path: Path) -> None:
    run = extractor()
    full, _ = features(run, tmp_path).pooled()
    half = features(run, tmp_path, dtype="fp16")
    assert torch.cosine_similarity(half.pooled()[0], full).min() > 0.9999
    assert next(half.shards())["features"].dtype == torch.float16
    with pytest.raises(FeatureError, match="npy has no bf16"):
        FeatureKind(dtype="bf16", format="npy")


def test_patches_are_stored_with_their_grid_whatever_the_size(tmp_path: Path) -> None:
    squares = next(features(extractor(), tmp_path, pool="patches").shards())
    assert squares["patches"].shape == (150, 4, 32)
    native = extractor(preprocess=Preprocess((0.5,) * 3, (0.2,) * 3, 8))
    ragged = next(features(native, tmp_path, pool="patches").shards())
    assert ragged["grid"].tolist() == [[3, 3]] * 150
    assert ragged["patches"].shape == (150 * 9, 32)


def test_unreadable_images_are_left_out_and_listed_and_too_many_end_the_call(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(8):
        Image.fromarray(np.full((16, 16, 3), i * 20, np.uint8)).save(images / f"{i}.png")
    (images / "3.png").write_bytes(b"<html>")
    source = parse_dataset(str(images))
    found = cached_features(extractor(), source, tmp_path / "out", FeatureKind(), max_bad_frac=0.2, quiet=True)
    assert len(found) == 7
    assert found.manifest["skipped"][0]["name"].endswith("3.png")
    assert next(found.shards())["index"].tolist() == [0, 1, 2, 4, 5, 6, 7]
    with pytest.raises(TooManyBadSamples, match="1 of 8"):
        cached_features(extractor(seed=1), source, tmp_path / "out", FeatureKind(), quiet=True)


def written(folder: Path, first: int) -> Path:
    """Six grey pictures in two classes; the files have the same names and sizes whatever their greys."""
    for i in range(6):
        path = folder / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), first + i, np.uint8)).save(path)
        os.utime(path, ns=(0, 0))  # as unpacked from a reproducible archive
    return folder


def test_folders_with_the_same_file_names_have_features_of_their_own(tmp_path: Path) -> None:
    run, out = extractor(), tmp_path / "out"
    for first in (10, 200):
        source = parse_dataset(str(written(tmp_path / f"from-{first}", first)))
        got, _ = cached_features(run, source, out, FeatureKind(), quiet=True).pooled()
        torch.testing.assert_close(got, run.extract([source.read(i) for i in range(6)], pool="cls"))


def test_a_picture_or_a_class_that_was_exchanged_is_noticed(tmp_path: Path) -> None:
    run, out, folder = extractor(), tmp_path / "out", written(tmp_path / "pictures", 10)
    table = tmp_path / "list.csv"
    names = sorted(folder.rglob("*.bmp"))

    def found() -> FeatureSet:
        table.write_text("path,class,other\n" + "".join(f"{p},{p.parent.name},same\n" for p in names))
        source = parse_dataset(f"FileList:path={table}:label={label}")
        return cached_features(run, source, out, FeatureKind(), quiet=True)

    label = "class"
    before, classes = found().pooled()
    assert classes is not None
    assert classes.tolist() == [0, 0, 0, 1, 1, 1]
    label = "other"
    assert found().pooled()[1].tolist() == [0] * 6  # type: ignore[union-attr]
    Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(names[0])
    after, _ = found().pooled()
    assert (before != after).any(1).tolist() == [True] + [False] * 5


def test_the_shard_record_is_plain_json_other_languages_can_follow(tmp_path: Path) -> None:
    found = features(extractor(), tmp_path, format="npy")
    record = json.loads((found.folder / "00000.json").read_text())
    assert set(record["files"]) == {"00000.features.npy", "00000.index.npy", "00000.labels.npy"}
    assert np.load(found.folder / "00000.features.npy").shape == (150, 32)


def test_the_digest_depends_on_every_weight_and_on_nothing_else() -> None:
    assert weights_digest(extractor().backbone) == weights_digest(extractor().backbone)
    assert weights_digest(extractor().backbone) != weights_digest(extractor(seed=1).backbone)
