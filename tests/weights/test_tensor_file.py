from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from dinov3.weights import tensor_file
from dinov3.weights.tensor_file import write_tensor_file, write_torch_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path, mask: int, mode: int) -> None:
    path, before = tmp_path / "a.safetensors", os.umask(mask)
    try:
        write_tensor_file({"a": torch.arange(3)}, path, {"format": "pt"})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert torch.equal(load_file(path)["a"], torch.arange(3))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.touch()
    path.chmod(0o640)
    write_tensor_file({"a": torch.zeros(1)}, path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_no_file_is_written_for_its_owner_alone() -> None:
    sources = [p for room in ("dinov3", "utility") for p in (ROOT / room).rglob("*.py")]
    assert {p.name for p in sources if "save_file" in p.read_text()} == {"tensor_file.py"}


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.safetensors'"):
        write_tensor_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            write_torch_file({"a": torch.zeros(2)}, Path("/dev/full"))


def test_the_same_content_gives_the_same_bytes_whatever_the_metadata(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    metadata = {name: f'{name} "quoted" \u00e9 \n' for name in ("format", "arch", "preprocess", "license", "origin")}
    written = set()
    for number in range(20):
        write_tensor_file(tensors, tmp_path / f"{number}.safetensors", metadata)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == metadata
        assert torch.equal(file.get_tensor("b"), tensors["b"])
        assert torch.equal(file.get_tensor("a"), tensors["a"])
