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


def test_safetensors_go_before_a_pickle_in_the_same_folder_and_no_pickle_is_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"evil": Payload(canary)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: asks to run (posix|nt)\.system, .* nothing was run"):
        read_weights(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert set(read_weights(tmp_path).tensors) == {"a"}
    assert not canary.exists()


def test_the_torch_files_of_older_hugging_face_folders_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_vit"}')
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        raw = read_weights(path)
        assert (set(raw.tensors), raw.config) == ({"a"}, {"model_type": "dinov3_vit"})
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "pytorch_model-1.bin")
    index = {"weight_map": {"a": "pytorch_model-1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert set(read_weights(tmp_path).tensors) == {"a"}


def test_a_folder_with_other_weight_files_names_one_of_them(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "dinov3.safetensors")
    with pytest.raises(
        WeightsError, match=r"no model\.safetensors in it; give one of its files, for example .*/dinov3\.saf"
    ):
        read_weights(tmp_path)


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


def test_files_are_told_by_their_content_not_by_their_ending(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.pth")
    torch.save({"b": torch.ones(1)}, tmp_path / "b.safetensors")
    assert set(read_weights(tmp_path / "a.pth").tensors) == {"a"}
    assert set(read_weights(tmp_path / "b.safetensors").tensors) == {"b"}


@pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_half_a_file_ends_early(name: str, share: float, tmp_path: Path) -> None:
    tensors = {f"a{i}": torch.ones(100) for i in range(20)}
    (torch.save if name == "x.pth" else save_file)(tensors, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=rf"{name}: .*ends early.*download it again") as caught:
        read_weights(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_bytes_after_the_end_are_no_early_end(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "x.safetensors")
    with (tmp_path / "x.safetensors").open("ab") as file:
        file.write(bytes(7))
    with pytest.raises(WeightsError, match="7 bytes follow its last tensor"):
        read_weights(tmp_path / "x.safetensors")


JSON = {
    "a number of 5,000 digits": ('{"a": ' + "9" * 5000 + "}", "not JSON: a number of more than 4,300 digits"),
    "100,000 tables in each other": ('{"a":' * 100_000, "nested too deeply"),
    "not UTF-8": (b'{"a": "\xff"}', "not text in UTF-8"),
    "half": ('{"a": 1', "not JSON: "),
    "a list": ("[1]", "not a JSON table"),
    "a Git LFS pointer": ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "a web page": ("<!doctype html>", "is a web page"),
    "nothing": ("", "is empty"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_that_is_none_is_one_line(case: str, tmp_path: Path) -> None:
    content, words = JSON[case]
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"config\.json: .*{words}") as caught:
        read_weights(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_names_of_a_file_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    save_file({"\x1b]0;pwn\x07\n\u202e": torch.full((1,), torch.nan)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / "x.safetensors")
    assert str(caught.value).isprintable()
