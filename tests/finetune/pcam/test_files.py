"""Fetching with resume, checking, and a made set in the official format."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest

from dinov3.cli import main as dinov3
from dinov3.data.sources import parse_dataset
from dinov3.data.sources.pcam import FILE
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.pcam import files as pcam
from dinov3.finetune.pcam.files import download, names, synthesise, verify

COUNTS = {"train": 6, "valid": 4, "test": 4}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    synthesise(tmp_path / "made", COUNTS, size=16, seed=3)
    return tmp_path / "made"


def test_a_made_set_is_read_as_the_published_one_and_follows_from_its_seed(made: Path, tmp_path: Path) -> None:
    source = parse_dataset(f"PCam:root={made}:split=train")
    assert len(source) == 6
    assert sorted(str(source.label(i)) for i in range(6)) == ["0"] * 3 + ["1"] * 3
    with h5py.File(made / FILE.format(split="train", part="y")) as file:
        assert file["y"].shape == (6, 1, 1, 1)
    synthesise(tmp_path / "again", COUNTS, size=16, seed=3)
    for _, part, name in names():
        with h5py.File(made / name) as one, h5py.File(tmp_path / "again" / name) as two:
            assert np.array_equal(one[part][...], two[part][...])


def test_verify_counts_and_compares_sums(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dinov3(["pcam", "verify", "--out", str(made)]) == 0
    said = capsys.readouterr().out
    assert "train: 6 images (the published set has 262,144), 3 of class 1" in said
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{line}\n" for line in said.splitlines()[3:]))
    assert dinov3(["pcam", "verify", "--out", str(made), "--sums", str(sums)]) == 0
    sums.write_text("0" * 64 + "  " + FILE.format(split="test", part="y"))
    assert dinov3(["pcam", "verify", "--out", str(made), "--sums", str(sums)]) == 78
    assert "download it again" in capsys.readouterr().err
    (made / FILE.format(split="valid", part="y")).unlink()
    assert dinov3(["pcam", "verify", "--out", str(made)]) == 78


def packed(made: Path, folder: Path) -> str:
    folder.mkdir()
    for _, _, name in names():
        (folder / f"{name}.gz").write_bytes(gzip.compress((made / name).read_bytes()))
    return folder.as_uri() + "/{name}.gz"


def test_download_unpacks_what_is_not_there_and_a_second_call_fetches_nothing(made: Path, tmp_path: Path) -> None:
    mirrors = ("file:///nowhere/{name}.gz", packed(made, tmp_path / "packed"))
    out = tmp_path / "out"
    assert all("would come from" in line for line in download(out, mirrors, {}, dry_run=True))
    assert not out.exists()
    download(out, mirrors, {}, dry_run=False)
    assert [one.images for one in verify(out, {})] == [6, 4, 4]
    assert sorted(p.name for p in out.iterdir()) == sorted(name for _, _, name in names())
    assert all(line.endswith("there already") for line in download(out, (), {}, dry_run=False))


def test_a_wrong_sum_or_a_damaged_file_is_not_kept(made: Path, tmp_path: Path) -> None:
    mirror, out = packed(made, tmp_path / "packed"), tmp_path / "out"
    first = next(names())[2]
    with pytest.raises(FinetuneError, match="was wanted"):
        download(out, (mirror,), {first: "0" * 64}, dry_run=False)
    assert not list(out.iterdir())
    path = tmp_path / "packed" / f"{first}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FinetuneError, match="fetched anew"):
        download(out, (mirror,), {}, dry_run=False)
    assert not list(out.iterdir())
    with pytest.raises(FinetuneError, match="--mirror gives another"):
        download(out, ("file:///nowhere/{name}",), {}, dry_run=False)


class _Cut(BaseHTTPRequestHandler):
    """A file's bytes from where they are asked for; ``cuts``: bytes after which each answer breaks off."""

    content = b""
    cuts: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        rest = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_a_download_that_is_cut_twice_keeps_what_it_has_and_goes_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(names())[2]
    monkeypatch.setattr(pcam, "names", lambda: iter([("train", "x", first)]))
    _Cut.content = gzip.compress((made / first).read_bytes())
    half = len(_Cut.content) // 2
    _Cut.cuts, out = [half + 10, 20], tmp_path / "out"
    with ThreadingHTTPServer(("127.0.0.1", 0), _Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_address[1]}/{{name}}"
        for there in (half + 10, half + 30):  # the second is more than the rest that was sent then
            with pytest.raises(FinetuneError, match="the same command goes on"):
                download(out, (mirror,), {}, dry_run=False)
            assert (out / f"{first}.gz.part").stat().st_size == there
        download(out, (mirror,), {}, dry_run=False)
        server.shutdown()
    assert (out / first).read_bytes() == (made / first).read_bytes()


def test_numbers_without_a_meaning_and_a_folder_in_use_are_one_line(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, problem in (
        (["synth", "--out", str(made)], "has camelyonpatch_level_2_split_train_x.h5 already"),
        (["synth", "--out", f"{made}/b", "--n", "1"], "--n 1: at least 8"),
        (["download", "--out", f"{made}/b", "--mirror", "ftp://a"], "an address of http(s) or file"),
    ):
        assert dinov3(["pcam", *words]) == 78
        assert problem in capsys.readouterr().err
