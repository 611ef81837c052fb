from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.data.errors import TooManyBadSamples
from dinov3.data.sources import parse_dataset
from dinov3.generate import extract as extracting
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import Job, extract, half, pooled
from dinov3.generate.shards import FIELDS, Sample, read_shard
from dinov3.generate.sizing import Sizing
from tests.generate.sets import CAP, SIZING, Counting, backbone, extractor, files, job, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def samples(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for path in sorted(folder.rglob("*.tar")) for sample in read_shard(path)}


def run(job: Job, out: Path, **options: float) -> dict[str, object]:
    return extract(job, out, quiet=True, **options)  # type: ignore[arg-type]


def test_each_image_is_whole_at_its_buckets_grid_and_has_its_own_patches(images: Path, tmp_path: Path) -> None:
    """Patches are the last tokens: the slice 1 to N + 1 would take the storage tokens for the first four."""
    manifest = run(job(images), tmp_path / "out")
    found = samples(tmp_path / "out")
    assert manifest["buckets"] == {"48x80": 2, "64x64": 5, "80x48": 3}
    model, one = backbone(), job(images)
    for key, sample in found.items():
        pixels = one.extractor.preprocess(images / f"{int(key):02d}.v1.png")
        rows, cols = sample.facts["grid"]
        assert sample.facts["bucket"] == f"{cols * 16}x{rows * 16}" == f"{pixels.shape[2]}x{pixels.shape[1]}"
        with torch.no_grad():
            tokens = model(pixels[None], is_training=True)
        wanted = tokens.patches[0].half().numpy()
        assert wanted.shape == (rows * cols, 32)
        np.testing.assert_allclose(sample.patches, wanted, rtol=0, atol=4e-3)
        np.testing.assert_allclose(sample.cls, tokens.cls[0].half().numpy(), rtol=0, atol=4e-3)
        every = torch.cat([tokens.cls[:, None], tokens.storage, tokens.patches], 1)[0]
        assert not np.allclose(sample.patches, every[1 : rows * cols + 1].half().numpy(), atol=4e-3)


def test_images_that_are_too_long_are_left_out_and_counted(images: Path, tmp_path: Path) -> None:
    manifest = run(job(images), tmp_path / "out")
    names = [Path(row["name"]).name for row in manifest["too_long"]]  # type: ignore[attr-defined]
    assert names == ["04.v1.png", "09.v1.png"]
    assert manifest["rows"] == 10
    assert set(samples(tmp_path / "out")) == {f"{i:09d}" for i in range(12) if i % 5 != 4}


def test_two_runs_leave_the_same_bytes(images: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(job(images), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(list((tmp_path / "a").rglob("*.tar"))) > 3


@pytest.mark.parametrize("shard", [0, 1, 3])
def test_a_killed_call_goes_on_and_leaves_the_same_files_as_another(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    run(job(images), tmp_path / "whole")
    written: list[Path] = []

    def dies(path: Path, found):  # type: ignore[no-untyped-def]
        if len(written) == shard:
            (path.parent / f".tmp-0123-{path.name}").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        return write_shard(path, found)

    write_shard = extracting.write_shard
    monkeypatch.setattr(extracting, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run(job(images), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    done = sum(len(list(read_shard(path))) for path in written)
    monkeypatch.setattr(extracting, "write_shard", write_shard)
    again = run(job(images), tmp_path / "out")
    assert again["computed"] == Counting.images == 10 - done
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_second_call_runs_no_forward_and_a_damaged_shard_is_computed_again(images: Path, tmp_path: Path) -> None:
    run(job(images), tmp_path / "out")
    before = files(tmp_path / "out")
    assert run(job(images), tmp_path / "out")["computed"] == 0
    assert Counting.images == 0
    name = min(name for name in before if name.endswith(".tar"))
    (tmp_path / "out" / name).write_bytes(before[name][:-1] + b"x")
    again = run(job(images), tmp_path / "out")
    assert 0 < again["computed"] < 10  # type: ignore[operator]
    assert files(tmp_path / "out") == before


def test_several_processes_leave_the_same_files_as_one(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job(images), tmp_path / "one")
    out = tmp_path / "two"
    extracting._prepare(job(images), out_folder(out), 0.01, quiet=True)
    plan = extracting._read_plan(out).plan
    monkeypatch.setattr(extracting.context, "world_size", lambda: 2)
    done = []
    for rank in (1, 0):
        monkeypatch.setattr(extracting.context, "rank", lambda rank=rank: rank)
        done.append(extracting._fill(job(images), plan, out, quiet=True))
    assert min(done) > 0
    assert sum(done) == 10
    extracting._finish(job(images), plan, out, 0.01)
    assert files(out) == files(tmp_path / "one")


def out_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "differ in weights"),
        ({"sizing": Sizing(side=80)}, "preproc_hash"),
        ({"cap": 2 * CAP}, "shard_bytes"),
    ],
)
def test_other_features_never_mix_with_those_that_are_there(
    images: Path, tmp_path: Path, changed: dict[str, int], words: str
) -> None:
    run(job(images), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(GenerateError, match=words) as error:
        run(job(images, **changed), tmp_path / "out")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert files(tmp_path / "out") == before


def test_the_result_does_not_depend_on_the_batch(images: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 4):
        run(job(images, batch_size=size), tmp_path / str(size))
        found.append(samples(tmp_path / str(size)))
    for key, sample in found[0].items():  # a last bit of fp32 may turn a rounding to fp16: 2 ** -9 for values below 4
        np.testing.assert_allclose(sample.patches, found[1][key].patches, rtol=2**-10, atol=2**-12)


def test_no_shard_is_larger_than_its_cap_and_none_has_room_for_another(images: Path, tmp_path: Path) -> None:
    run(job(images, sizing=Sizing(side=64, max_stretch=9)), tmp_path / "out")
    by_bucket: dict[str, list[int]] = {}
    for path in sorted((tmp_path / "out").rglob("*.tar")):
        assert path.stat().st_size <= CAP
        by_bucket.setdefault(path.parent.name, []).append(len(list(read_shard(path))))
    for rows in by_bucket.values():
        assert len(set(rows[:-1])) <= 1  # of one size, all full but the last
        assert rows[-1] <= max(rows)
    with pytest.raises(GenerateError, match="raise --shard-mb"):
        run(job(images, cap=4096), tmp_path / "small")
    assert files(tmp_path / "small") == {}


def test_pooled_features_are_the_means_of_two_by_two_patches(images: Path, tmp_path: Path) -> None:
    grid = (4, 6)
    patches = torch.arange(24 * 2, dtype=torch.float32).reshape(24, 2)
    found = pooled(patches, grid, 2)
    assert found.shape == (6, 2)
    assert found[4].tolist() == patches.reshape(4, 6, 2)[2:4, 2:4].mean((0, 1)).tolist()
    assert torch.equal(pooled(patches, grid, 1), patches)
    sizing = Sizing(side=64, pool=2)
    run(job(images, sizing=sizing), tmp_path / "out")
    for sample in samples(tmp_path / "out").values():
        width, height = map(int, sample.facts["bucket"].split("x"))
        assert sample.facts["grid"] == [height // 32, width // 32]
        assert sample.patches.shape == (height * width // 32**2, 32)


def test_unreadable_images_are_counted_and_too_many_end_the_call(images: Path, tmp_path: Path) -> None:
    content = (images / "05.v1.png").read_bytes()
    (images / "05.v1.png").write_bytes(content[: len(content) // 2])  # its header is whole
    (images / "06.v1.png").write_bytes(b"nothing")
    with pytest.raises(TooManyBadSamples, match="unreadable"):
        run(job(images), tmp_path / "few")
    manifest = run(job(images), tmp_path / "out", max_bad_frac=0.5)
    assert {Path(row["name"]).name for row in manifest["unreadable"]} == {"05.v1.png", "06.v1.png"}  # type: ignore[attr-defined]
    assert manifest["rows"] == 8
    assert len(samples(tmp_path / "out")) == 8


def test_a_shard_without_a_readable_image_is_not_there(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2)
    content = (folder / "01.v1.png").read_bytes()
    (folder / "01.v1.png").write_bytes(content[: len(content) // 2])
    manifest = run(job(folder), tmp_path / "out", max_bad_frac=0.5)
    assert len(manifest["shards"]) == 1  # type: ignore[arg-type]
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 1
    assert run(job(folder), tmp_path / "out", max_bad_frac=0.5)["computed"] == 0


def test_features_that_fp16_cannot_hold_are_refused_with_the_images_name() -> None:
    with pytest.raises(GenerateError, match=r"cat\.png: its features are not finite in fp16 \(largest 70000\)"):
        half(torch.tensor([1.0, -70000.0]), "cat.png")


def test_shards_without_a_plan_are_not_written_over(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "bucket_64x64").mkdir(parents=True)
    (out / "bucket_64x64" / "shard-000000.tar").write_bytes(b"precious")
    with pytest.raises(GenerateError, match="give another --out"):
        run(job(images), out)
    assert (out / "bucket_64x64" / "shard-000000.tar").read_bytes() == b"precious"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": {}, "plan": {"shards": [{}]}}', "[" * 100_000])
def test_a_damaged_plan_is_one_line(images: Path, tmp_path: Path, content: str) -> None:
    out = out_folder(tmp_path / "out")
    (out / "plan.json").write_text(content)
    with pytest.raises(GenerateError, match="damaged"):
        run(job(images), out)


def test_webdatasets_own_reader_gives_the_same_samples(images: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    run(job(images), tmp_path / "out")
    paths = sorted(map(str, (tmp_path / "out").rglob("*.tar")))
    theirs = webdataset.WebDataset(paths, shardshuffle=False).decode()
    found = samples(tmp_path / "out")
    seen = 0
    for sample in theirs:
        own = found[sample["__key__"]]
        assert [field for field in sample if not field.startswith("__")] == list(FIELDS)
        assert sample["json"] == own.facts
        assert np.array_equal(sample["dinov3.npy"], own.cls)
        assert np.array_equal(sample["dinov3_patches.npy"], own.patches)
        seen += 1
    assert seen == len(found) == 10


def test_only_the_patch_of_a_corner_changes_with_it() -> None:
    """Nothing is cropped: of 1216 x 832 px each corner is a patch of the grid 52 x 76."""
    one = Job.of(extractor(), parse_dataset("Synthetic:n=1:size=24"), Sizing())
    plain = np.full((832, 1216, 3), 128, np.uint8)
    assert one.form.grid(Bucket(1216, 832)) == (52, 76)
    embed = one.extractor.backbone.patch_embed
    with torch.no_grad():
        before = embed(one.extractor.preprocess(plain)[None]).reshape(52, 76, -1)
        for row, col in ((0, 0), (0, 75), (51, 0), (51, 75)):
            touched = plain.copy()
            touched[row * 16 : row * 16 + 16, col * 16 : col * 16 + 16] = (255, 0, 0)
            after = embed(one.extractor.preprocess(touched)[None]).reshape(52, 76, -1)
            changed = (after != before).any(-1).nonzero().tolist()
            assert changed == [[row, col]]


def test_the_manifest_names_weights_and_preprocessing(images: Path, tmp_path: Path) -> None:
    run(job(images), tmp_path / "out")
    key = json.loads((tmp_path / "out" / "manifest.json").read_text())["key"]
    assert len(key["weights"]) == 64
    assert key["preprocess"]["buckets"] == SIZING.describe()
    assert key["dtype"] == "fp16"
