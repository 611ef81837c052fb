from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import extract
from dinov3.generate.shards import Sample, read_shard, write_shard
from dinov3.generate.verify import verify
from dinov3.runs.manifest import describe_file
from tests.generate.sets import job, write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good set, ``good``, and one of another backbone, ``other``."""
    place = tmp_path_factory.mktemp("sets")
    images = write_images(place / "images")
    extract(job(images), place / "good", quiet=True)
    extract(job(images, seed=1), place / "other", quiet=True)
    return place


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(made / "good", tmp_path / "set")
    return tmp_path / "set"


def first(folder: Path) -> Path:
    return min(folder.rglob("*.tar"))


def refusal(folder: Path) -> str:
    with pytest.raises(GenerateError) as error:
        verify(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewritten(folder: Path, change: Callable[[Sample], Sample]) -> None:
    """The first shard with changed samples, and a manifest that calls it whole."""
    path = first(folder)
    write_shard(path, [change(sample) for sample in list(read_shard(path))])
    manifest = json.loads((folder / "manifest.json").read_text())
    for row in manifest["shards"]:
        if row["name"] == path.relative_to(folder).as_posix():
            row |= describe_file(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_set_is_good(folder: Path) -> None:
    contents = verify(folder)
    assert contents.rows == 10
    assert len(contents.shards) == len(list(folder.rglob("*.tar")))


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_shard_cut_anywhere_is_one_line(folder: Path, share: float) -> None:
    path = first(folder)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    try:
        assert str(path) in refusal(folder)
    finally:
        path.write_bytes(content)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_bit_anywhere_is_one_line(folder: Path, share: float, bit: int) -> None:
    path = first(folder)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(share * len(content))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        assert str(path) in refusal(folder)
    finally:
        path.write_bytes(content)


def test_a_shard_of_another_backbone_is_named(folder: Path, made: Path) -> None:
    shutil.copy(first(made / "other"), first(folder))
    assert "features of another backbone" in refusal(folder)


def test_a_shard_that_the_manifest_does_not_know_is_named(folder: Path, made: Path) -> None:
    shutil.copy(first(made / "other"), folder / "bucket_64x64" / "shard-000099.tar")
    assert "shard-000099.tar: not in manifest.json" in refusal(folder)


CHANGES: dict[str, tuple[Callable[[Sample], Sample], str]] = {
    "a centre crop of 224 px": (lambda s: s._replace(patches=np.zeros((196, 32), np.float16)), r"(196, 32)"),
    "storage tokens taken for patches": (
        lambda s: s._replace(patches=np.concatenate([s.patches[:4], s.patches])),
        "with other tokens among them",
    ),
    "another width": (lambda s: s._replace(patches=s.patches[:, :16]), "of a crop"),
    "another class token": (lambda s: s._replace(cls=s.cls[:16]), "a class token (16,)"),
    "another image's json": (lambda s: s._replace(facts={**s.facts, "image_id": "000000007"}), "misaligned"),
    "a turned grid": (lambda s: s._replace(facts={**s.facts, "grid": [7, 9]}), "grid [7, 9]"),
    "another preprocessing": (lambda s: s._replace(facts={**s.facts, "preproc_hash": "x"}), "another preprocessing"),
    "values that are not finite": (lambda s: s._replace(cls=s.cls * np.float16(np.inf)), "not finite"),
    "no facts": (lambda s: s._replace(facts={}), "another backbone"),
    "another key": (lambda s: s._replace(key="x.y"), "x.y"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_of_the_set_or_not_aligned_is_one_line(folder: Path, name: str) -> None:
    change, words = CHANGES[name]
    rewritten(folder, change)
    assert words in refusal(folder)


def test_a_sample_that_is_there_twice_is_named(folder: Path) -> None:
    paths = sorted(folder.glob("bucket_64x64/*.tar"))
    shutil.copy(paths[0], paths[1])
    assert "is in bucket_64x64/shard-000000.tar too" in refusal(folder)


def test_a_missing_shard_and_further_problems_are_counted(folder: Path) -> None:
    for path in folder.rglob("*.tar"):
        path.unlink()
    assert "missing" in refusal(folder)
    assert "more shards with problems" in refusal(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "dinov3-dit-features", "format_version": 1}', "\udcff", "[" * 100_000]
)
def test_a_damaged_manifest_is_one_line(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "damaged" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["../x/shard-000000.tar", "/etc/bucket_1x1/shard-000000.tar", "bucket_0x16/shard-000000.tar"]
)
def test_a_manifest_that_names_files_elsewhere_is_damaged(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "damaged" in refusal(folder)


def test_an_unfinished_set_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "no manifest.json: unfinished" in refusal(folder)
    assert "no manifest.json" in refusal(folder / "nowhere")
