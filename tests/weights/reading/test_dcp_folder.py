"""Checkpoint folders of torch.distributed.checkpoint: read, and never run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from dinov3.weights.files import WeightsError
from dinov3.weights.layouts import read_model
from dinov3.weights.reading.dcp_folder import METADATA, read_dcp

LAYOUTS = Path(__file__).parents[2] / "golden" / "data" / "F02_checkpoint_layouts.json"


def golden_state(seed: int) -> dict[str, Tensor]:
    """Random tensors under the names and shapes the official code writes."""
    layouts = json.loads(LAYOUTS.read_text())
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator)
        for name, shape, dtype in layouts["dcp_multi_tensor_optim"]
        if dtype == "float32" and name.startswith("model.")
    }


def save(state: dict[str, object], folder: Path) -> Path:
    dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_ema_teacher_is_read_from_an_official_training_checkpoint(tmp_path: Path) -> None:
    state = golden_state(0)
    source = read_model(save({**state, "iteration": 3}, tmp_path / "99"))
    expected = {k.removeprefix("model.model_ema."): v for k, v in state.items() if k.startswith("model.model_ema.")}
    found = {f"backbone.{k}": v for k, v in source.backbone.items()} | source.heads
    assert found.keys() == expected.keys()
    assert {k.split(".")[0] for k in found} == {"backbone", "dino_head", "ibot_head"}
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert source.layout == "DCP"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_sharded_teacher_checkpoint_is_read(tmp_path: Path) -> None:
    state = {k.replace("model.model_ema.", "model."): v for k, v in golden_state(1).items() if "model_ema" in k}
    tensors, files = read_dcp(save(dict(state), tmp_path / "teacher"))
    assert {f"model.{k}" for k in tensors} == set(state)
    assert [f.name for f in files] == ["__0_0.distcp"]


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_pickle_in_the_metadata_is_not_run(tmp_path: Path) -> None:
    folder, canary = save(dict(golden_state(2)), tmp_path / "99"), tmp_path / "canary"
    (folder / METADATA).write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(WeightsError, match=r"blocked global (posix|nt)\.system"):
        read_dcp(folder)
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_an_entry_that_is_a_pickle_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = save({**golden_state(3), "model.model_ema.backbone.evil": Payload(canary)}, tmp_path / "99")
    tensors, _ = read_dcp(folder)
    assert "backbone.evil" not in tensors
    assert not canary.exists()


@pytest.mark.parametrize("elsewhere", ["../outside.distcp", "/etc/passwd", "a/b.distcp"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_data_outside_the_folder_is_refused(elsewhere: str, tmp_path: Path) -> None:
    folder = save(dict(golden_state(4)), tmp_path / "99")
    metadata = pickle.loads((folder / METADATA).read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = elsewhere
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    with pytest.raises(WeightsError, match="which is not in this folder"):
        read_dcp(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", pickle.dumps([1]), b"<html>404</html>"])
def test_metadata_that_are_none_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / METADATA).write_bytes(content)
    with pytest.raises(WeightsError, match=r"\.metadata: "):
        read_dcp(tmp_path)
    (tmp_path / METADATA).write_bytes(b"")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_folder_whose_data_are_gone_or_cut_short_says_so(tmp_path: Path) -> None:
    folder = save(dict(golden_state(5)), tmp_path / "99")
    data = folder / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="99: cannot be read: "):
        read_dcp(folder)
    data.unlink()
    with pytest.raises(WeightsError, match=r"__0_0\.distcp: is missing"):
        read_dcp(folder)
