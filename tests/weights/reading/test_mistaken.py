"""Files that are no weights say what they are and what to do."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from dinov3.weights.files import read_weights
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.reading.mistaken import HEAD, mistaken

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 86532421\n"


def picture(kind: str) -> bytes:
    Image.new("RGB", (4, 4)).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def tar() -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    return buffer.getvalue()


def array() -> bytes:
    np.save(buffer := io.BytesIO(), np.ones(3))
    return buffer.getvalue()


CASES = {
    "a Git LFS pointer": (POINTER, "is a Git LFS pointer, .* run `git lfs pull`"),
    "a git-annex pointer": (b"/annex/objects/MD5E-s10--ab.pth\n", "is a git-annex pointer, .* `git annex get`"),
    "XML of a link that ran out": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "is a web page.*download",
    ),
    "HTML": (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "is a web page"),
    "HTML in capitals": (b"<HTML><BODY>login</BODY></HTML>", "is a web page"),
    "an answer in JSON": (b'{"error": "Invalid username or password."}', "is JSON text, not weights"),
    "text": (b"Entry not found", "is text .15 bytes, beginning 'Entry not found'., not weights"),
    "text with accents that is cut": (("é" * 400).encode()[:HEAD], "is text"),
    "nothing": (b"", "is empty: download it again"),
    "zeros": (bytes(5000), "is nothing but zeros"),
    "gzip": (gzip.compress(b"weights"), "is packed with gzip: unpack it first"),
    "tar": (tar(), "is a tar archive: unpack it first"),
    "NumPy": (array(), "is a NumPy array"),
    "a photograph": (picture("JPEG"), r"is a picture: give weights here .a run folder, \.pth or \.safetensors."),
    "a drawing": (picture("PNG"), "is a picture"),
}


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_no_weights_says_what_it_is(case: str, name: str, tmp_path: Path) -> None:
    content, words = CASES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: {words}") as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).isprintable()


def test_weights_are_not_mistaken_for_anything() -> None:
    torch.save({"a": torch.zeros(1000)}, zipped := io.BytesIO())
    torch.save({"a": torch.zeros(1000)}, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    for content in (zipped.getvalue(), old.getvalue(), save({"a": torch.zeros(1000)}), save({})):
        assert mistaken(content[:HEAD], len(content)) is None


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_random_bytes_are_refused(name: str, tmp_path: Path) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        (tmp_path / name).write_bytes(generator.bytes(1000))
        with pytest.raises(WeightsError, match=name):
            read_weights(tmp_path / name)
