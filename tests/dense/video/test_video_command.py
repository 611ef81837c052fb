from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.data.errors import DataError
from dinov3.data.sources.synthetic_video import SyntheticVideo
from dinov3.dense.video.frames import FileFrames, open_frames
from dinov3.dense.video.render import FileScreen, overlaid
from dinov3.features.cache import FeatureSet
from tests.dense.conftest import save


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """12 frames of 64 px with a cut away at 8, and the mask of the first."""
    for number, (pixels, mask) in enumerate(SyntheticVideo(n=1, length=12, size=64).frames(0)):
        save(pixels, tmp_path / "film" / f"{number:03d}.png")
        if number == 0:
            save(mask, tmp_path / "first.png")
    return tmp_path


def video(weights: Path, source: Path, out: Path, *more: str) -> int:
    return main(["video", "--weights", str(weights), "--input", str(source), "--out", str(out), *more])


def test_a_first_mask_is_carried_shown_and_the_features_are_a_set(
    weights: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = film / "out"
    mask = ["--mask", str(film / "first.png"), "--render", "png", "--features"]
    assert video(weights, film / "film", out, *mask, "radius=4") == 0
    assert "frames    12" in capsys.readouterr().out
    masks = sorted((out / "masks").iterdir())
    assert [path.name for path in masks] == [f"{i:06d}.png" for i in range(12)]
    assert np.array_equal(np.asarray(Image.open(masks[0])), np.asarray(Image.open(film / "first.png")))
    assert set(np.unique(np.asarray(Image.open(masks[5])))) <= {0, 1}
    assert len(list((out / "overlay").iterdir())) == 12
    (folder,) = (out / "features").iterdir()
    found = FeatureSet(folder)
    assert len(found) == 12
    (shard,) = found.shards()
    assert shard["patches"].shape == (12, 64, 48)
    assert shard["index"].tolist() == list(range(12))
    assert shard["grid"][0].tolist() == [8, 8]


def test_smoothing_changes_features_but_not_the_first_nor_those_of_a_cut(weights: Path, film: Path) -> None:
    found = []
    for alpha in ("1", "0.7"):
        out = film / f"smooth{alpha}"
        assert video(weights, film / "film", out, "--features", "--render", "none", "--smooth", alpha) == 0
        (folder,) = (out / "features").iterdir()
        found.append(torch.cat([shard["patches"].float() for shard in FeatureSet(folder).shards()]))
    same = [torch.equal(a, b) for a, b in zip(*found, strict=True)]
    assert same[0]
    assert same[8]  # the film cuts away there
    assert not same[5]


def test_a_file_is_read_and_written_frame_by_frame(weights: Path, film: Path) -> None:
    screen = FileScreen(film / "film.mp4", 10)
    for path in sorted((film / "film").iterdir()):
        screen.show(np.asarray(Image.open(path)))
    assert screen.close().is_file()
    assert not list(film.glob(".tmp*"))
    frames = open_frames(str(film / "film.mp4"))
    assert frames.rate == 10
    shapes = [frame.shape for frame in frames if not isinstance(frame, tuple)]
    assert shapes == [(64, 64, 3)] * 12
    assert video(weights, film / "film.mp4", film / "out", "--mask", str(film / "first.png"), "radius=4") == 0
    assert isinstance(open_frames(str(film / "out" / "overlay.mp4")), FileFrames)


def test_a_file_that_ends_early_says_so(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "film.mkv"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert len(list(open_frames(str(path)))) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *_, last = open_frames(str(path))
    assert isinstance(last, tuple)
    assert last[1].endswith("frames of about 40: the file is cut short or damaged")


def test_an_unreadable_frame_and_one_of_another_size_are_counted(
    weights: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (film / "film" / "003.png").write_bytes(b"")
    save(np.zeros((32, 32, 3), dtype=np.uint8), film / "film" / "004.png")
    more = ["--mask", str(film / "first.png"), "--render", "none", "--max-bad-frac", "0.5", "radius=4"]
    assert video(weights, film / "film", film / "out", *more) == 0
    said = capsys.readouterr().out
    assert "frames    10" in said
    assert "32x32, the first frame is 64x64" in said
    assert not (film / "out" / "masks" / "000003.png").exists()
    assert video(weights, film / "film", film / "again", "--render", "none") == 74


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.zeros((64, 64), dtype=np.uint8), "there is nothing to follow"),
        (np.zeros((32, 32), dtype=np.uint8), "the truth is 32x32, the image 64x64"),
        (np.zeros((64, 64, 3), dtype=np.uint8), "not colours"),
        (np.full((64, 64), 999, dtype=np.uint16), "0 to 255 are expected"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line(
    weights: Path, film: Path, mask: np.ndarray[Any, Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(mask, film / "wrong.png")
    assert video(weights, film / "film", film / "out", "--mask", str(film / "wrong.png"), "--render", "png") == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not (film / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("film.mp4", b"no video at all", "cannot be opened as a video"),
        ("film.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot be opened as a video"),
        ("film.txt", b"text", "not one of .mp4"),
    ],
)
def test_a_file_that_is_no_video_is_one_line(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    """A playlist under the name of a video opens nothing else: the container is named, not guessed."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        open_frames(str(tmp_path / name))


def test_an_address_is_never_opened() -> None:
    with pytest.raises(DataError, match="only local paths"):
        open_frames("https://example.org/film.mp4")


def test_without_pyav_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *rest)

    monkeypatch.setattr("dinov3.data.storage.extras.import_module", lambda name: without(name))
    with pytest.raises(DataError, match=r"pip install 'dinov3\[video\]'"):
        open_frames(str(tmp_path / "film.mp4"))


def test_labels_tint_and_the_background_does_not() -> None:
    pixels = np.full((4, 4, 3), 100, dtype=np.uint8)
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[1, 2] = 2
    shown = overlaid(pixels, labels)
    assert (shown != 100).any(-1).sum() == 1
    assert (pixels == 100).all()
