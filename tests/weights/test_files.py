"""Weight files are read, checked and never run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinov3.weights.files import WeightsError, read_weights


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "weights.pth"])
def test_a_pickle_under_any_name_is_not_run(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"evil": Payload(canary)}, tmp_path / name)
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)
    assert not canary.exists()


def test_of_a_folder_only_safetensors_are_read(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"evil": Payload(canary)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model\.safetensors"):
        read_weights(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert set(read_weights(tmp_path).tensors) == {"a"}
    assert not canary.exists()


def sharded(folder: Path, weight_map: dict[str, str]) -> Path:
    save_file({"a": torch.ones(1)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(2)}, folder / "model-2.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_several_files_with_an_index_are_one_model(tmp_path: Path) -> None:
    raw = read_weights(sharded(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"}))
    assert {k: v.shape[0] for k, v in raw.tensors.items()} == {"a": 1, "b": 2}
    content = b"".join((tmp_path / f"model-{i}.safetensors").read_bytes() for i in (1, 2))
    assert raw.sha256() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../secret.safetensors"}, "not a safetensors file in this folder"),
        ({"a": "model-1.bin"}, "not a safetensors file in this folder"),
        ({"a": "model-3.safetensors"}, r"model-3\.safetensors: no such file"),
        ({"a": "model-1.safetensors", "c": "model-2.safetensors"}, "names other tensors than its files hold"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(weight_map: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        read_weights(sharded(tmp_path, weight_map))


def test_a_header_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", ["nan", "int", "empty"])
def test_only_tables_of_finite_floats_are_weights(kind: str, tmp_path: Path) -> None:
    tensors = {
        "nan": {"w": torch.tensor([float("nan")])},
        "int": {"w": torch.ones(1, dtype=torch.int64)},
        "empty": {},
    }
    save_file(tensors[kind], tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"x\.safetensors: (w is not a plain|holds no tensor)"):
        read_weights(tmp_path / "x.safetensors")


def test_a_pickled_number_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(3))
    with pytest.raises(WeightsError, match=r"x\.pth"):
        read_weights(tmp_path / "x.pth")
