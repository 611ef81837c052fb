"""Ids of the Hub and ``~`` in every place that takes weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dinov3.weights.hub import is_hub_id, located
from dinov3.weights.own import load_backbone, read_source
from dinov3.weights.reading.errors import WeightsError
from tests.weights.random_models import tiny_vit
from tests.weights.test_layouts import hf_folder


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Hub that has one model; the files it was asked for."""
    hf_folder(tiny_vit(), tmp_path / "cache")
    files: list[str] = []

    def hf_hub_download(repo: str, name: str) -> str:
        files.append(f"{repo}/{name}")
        if not (tmp_path / "cache" / name).is_file():
            raise FileNotFoundError(f"404 Client Error: {name}")
        return str(tmp_path / "cache" / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    monkeypatch.chdir(tmp_path)
    return files


def test_a_hub_id_is_a_model_the_description_first(asked: list[str]) -> None:
    assert torch.equal(read_source(Path("org/dinov3-vits16")).backbone["cls_token"], tiny_vit().cls_token)
    assert asked == ["org/dinov3-vits16/config.json", "org/dinov3-vits16/model.safetensors"]
    assert torch.equal(load_backbone("org/dinov3-vits16").cls_token, tiny_vit().cls_token)  # type: ignore[arg-type]


def test_a_model_in_several_files_is_fetched_whole(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache" / "model.safetensors").rename(tmp_path / "cache" / "model-1.safetensors")
    names = dict.fromkeys(read_names(tmp_path / "cache" / "model-1.safetensors"), "model-1.safetensors")
    (tmp_path / "cache" / "model.safetensors.index.json").write_text(str({"weight_map": names}).replace("'", '"'))
    load_backbone("org/big")
    assert asked[-1] == "org/big/model-1.safetensors"


def read_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def test_a_repository_without_weights_is_one_line(asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"org/x: is no path here, and model\.safetensors could not be read .* 404"):
        load_backbone("org/x")


def test_terms_that_were_not_accepted_say_where_to_accept_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(repo: str, name: str) -> str:
        raise OSError("\n403 Forbidden: this repository is gated\nmore")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=refused))
    with pytest.raises(WeightsError, match=r"403 Forbidden.*accept them on its page") as caught:
        located("facebook/dinov3-vits16")
    assert len(str(caught.value).splitlines()) == 1


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"org/name: is no path here, and .*needs huggingface_hub: pip install"):
        located("org/name")


@pytest.mark.parametrize(
    "text", ["weights.pth", "./a/b", "/a/b", "a/b/c", "runs/x.pth", "here/typo", "~/x", "a/b.safetensors"]
)
def test_paths_are_no_ids(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=None))
    assert not is_hub_id(text)
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_backbone(text)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf_folder(tiny_vit(), tmp_path / "weights")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(load_backbone("~/weights").cls_token, tiny_vit().cls_token)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["hf://org/name", "https://huggingface.co/org/name", "https://hf.co/org/name/tree/main"]
)
def test_an_address_is_answered_with_the_id_in_it(text: str) -> None:
    for given in (text, Path(text)):
        with pytest.raises(WeightsError, match=r"give the Hub id org/name$"):
            located(given)
    with pytest.raises(WeightsError, match="give a Hub id, ORG/NAME"):
        located("s3://bucket/x.pth")
