from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.errors import LoaderError
from dinov3.data.sources import parse_dataset
from dinov3.survey.survey import CHUNK, NO_LABEL, chosen_indices, survey
from tests.data.fakes import Killed, Pictures

SCENES = parse_dataset("Synthetic:n=12:size=64")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes; one file twice, one picture saved in three ways, two blank ones, three that cannot be read."""
    scenes = [Image.fromarray(np.asarray(SCENES.read(n))) for n in range(6)]
    files = {f"cat/{n}.jpg": jpeg(scene) for n, scene in enumerate(scenes)}
    files |= {"cat/again.jpg": files["cat/0.jpg"], "dog/small.jpg": jpeg(scenes[1].resize((40, 40)), 60)}
    png = io.BytesIO()
    scenes[1].save(png, "PNG")
    files |= {"dog/1.png": png.getvalue(), "dog/white.jpg": jpeg(Image.new("RGB", (50, 30), "white"))}
    files |= {"dog/black.jpg": jpeg(Image.new("L", (30, 50)))}
    files |= {"empty.jpg": b"", "page.jpg": b"<html>", "cut.jpg": files["cat/2.jpg"][:400]}
    for name, data in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


def test_every_kind_of_finding_is_found(folder: Path) -> None:
    source = parse_dataset(str(folder))
    found = survey(source)

    def short(groups: list[list[int]]) -> list[list[str]]:
        return sorted(sorted(Path(source.name(i)).relative_to(folder).as_posix() for i in group) for group in groups)

    assert (found.images, found.examined, len(found.facts)) == (14, 14, 11)
    assert [(Path(bad.name).name, bad.reason.split(":")[0]) for _, bad in found.bad] == [
        ("cut.jpg", "OSError"),
        ("empty.jpg", "the file is empty"),
        ("page.jpg", "UnidentifiedImageError"),
    ]
    assert short(found.copies()) == [["cat/0.jpg", "cat/again.jpg"]]
    assert short(found.lookalikes()) == [["cat/1.jpg", "dog/1.png", "dog/small.jpg"]]
    assert int(found.facts["blank"].sum()) == 2
    kinds = found.facts["kind"].tolist()
    assert [kinds.count(kind) for kind in (b"JPEG RGB", b"JPEG L", b"PNG RGB")] == [9, 1, 1]
    assert sorted(found.facts["label"].tolist()) == [0] * 7 + [1] * 4
    assert list(found.moments) == [3]
    assert found.moments[3].images == 11


def test_the_number_of_workers_changes_nothing() -> None:
    source = Pictures(3 * CHUNK + 5, bad=frozenset({4, 40, 100}))
    alone, shared = survey(source), survey(source, workers=2)
    for name in alone.facts.dtype.names or ():
        if name != "seconds":
            np.testing.assert_array_equal(alone.facts[name], shared.facts[name], name)  # NaN equals NaN
    assert alone.bad == shared.bad
    assert [index for index, _ in alone.bad] == [4, 40, 100]
    assert np.array_equal(alone.moments[3].mean, shared.moments[3].mean)
    assert np.array_equal(alone.moments[3].std, shared.moments[3].std)


def test_a_sample_is_drawn_by_the_seed_without_repetition() -> None:
    draws = [chosen_indices(5000, 300, seed) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert len(np.unique(draws[0])) == 300
    assert np.all(np.diff(draws[0]) > 0)
    assert np.array_equal(chosen_indices(7, 7, 0), np.arange(7))
    assert survey(Pictures(50), limit=10, seed=3).examined == 10


def test_images_of_several_channel_counts_are_kept_apart() -> None:
    class Mixed(Pictures):
        def read(self, index: int) -> bytes | np.ndarray:
            self.channels = 5 if index % 2 else 3
            return super().read(index)

    found = survey(Mixed(10))
    assert {channels: moments.images for channels, moments in found.moments.items()} == {3: 5, 5: 5}
    assert set(found.facts["kind"].tolist()) == {b"pixels"}
    assert set(found.facts["label"].tolist()) == {NO_LABEL}


def test_a_dataset_without_one_readable_image_is_surveyed_too() -> None:
    found = survey(Pictures(5, bad=frozenset(range(5))))
    assert (len(found.facts), len(found.bad)) == (0, 5)
    assert found.copies() == found.lookalikes() == []


def test_a_worker_that_dies_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(LoaderError, match="a worker process died"):
        survey(Killed(3), workers=1)
