from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dinov3.models.build import build_preset
from dinov3.models.convnext import ConvNeXt
from dinov3.models.vit import DinoVisionTransformer
from dinov3.runs.checkpoint import Checkpointer
from dinov3.runs.state import digest
from dinov3.runs.step_folders import CheckpointError, step_folders
from dinov3.weights.files import WeightsError
from dinov3.weights.own import WEIGHTS, load_backbone, write_backbone

PREPROCESS = {"mean": [0.5], "std": [0.2], "size": 32}


def tiny_vit(depth: int = 2) -> nn.Module:
    model = DinoVisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=depth, num_heads=2, n_storage_tokens=1)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def tiny_whitened() -> nn.Module:
    model = DinoVisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, stem="whitened")
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def tiny_convnext() -> nn.Module:
    model = ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def state_of(model: nn.Module) -> str:
    return digest(dict(model.state_dict()))


@pytest.mark.parametrize("build", [tiny_vit, tiny_whitened, tiny_convnext])
def test_a_written_backbone_comes_back_bit_for_bit(build, tmp_path: Path) -> None:
    model = build()
    write_backbone(tmp_path, model, PREPROCESS)
    for path in (tmp_path, tmp_path / WEIGHTS):
        again = load_backbone(path)
        assert state_of(again) == state_of(model)
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        assert torch.equal(again(x), model(x))
    assert json.loads((tmp_path / "config.json").read_text())["preprocess"] == PREPROCESS


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {f"backbone.{k}": v for k, v in s.items()},
        lambda s: {f"module.backbone.{k}": v for k, v in s.items()},
        lambda s: {"teacher": {**{f"backbone.{k}": v for k, v in s.items()}, "dino_head.mlp.weight": torch.zeros(1)}},
    ],
    ids=["flat", "backbone.", "module.", "teacher checkpoint with heads"],
)
def test_every_official_layout_is_read(wrap, tmp_path: Path) -> None:
    model = tiny_vit()
    write_backbone(tmp_path, model, PREPROCESS)
    os.rename(tmp_path / "config.json", tmp_path / "x.json")
    torch.save(wrap(dict(model.state_dict())), tmp_path / "x.pth")
    assert state_of(load_backbone(tmp_path / "x.pth")) == state_of(model)


def test_a_released_model_is_recognised_by_its_names_and_shapes(tmp_path: Path) -> None:
    released = build_preset("dinov3_convnext_tiny", "cpu")
    released.init_weights(torch.Generator().manual_seed(0))
    torch.save(dict(released.state_dict()), tmp_path / "weights.pth")
    assert state_of(load_backbone(tmp_path / "weights.pth")) == state_of(released)


def test_an_architecture_nobody_knows_is_asked_for(tmp_path: Path) -> None:
    torch.save(dict(tiny_vit().state_dict()), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"cannot tell the architecture: no weights\.json beside it"):
        load_backbone(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("cls_token"), r"1 missing \['cls_token'\]"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unexpected \['extra'\]"),
        (lambda s: s.update(cls_token=torch.zeros(1, 1, 8)), r"cls_token \(1, 1, 8\), model \(1, 1, 32\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message: str, tmp_path: Path) -> None:
    model = tiny_vit()
    write_backbone(tmp_path, model, PREPROCESS)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    change(state)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match=message):
        load_backbone(tmp_path)


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("writer", ["torch.save", "pickle"])
def test_a_file_that_wants_to_run_code_is_refused_and_nothing_runs(writer: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    content = {"cls_token": torch.zeros(1), "evil": Payload(canary)}
    if writer == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        load_backbone(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_is_no_weight_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsError, match=name):
        load_backbone(tmp_path / name)
    with pytest.raises(WeightsError, match="no such file"):
        load_backbone(tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    "content", [{"w": torch.tensor([float("nan")])}, {"w": torch.ones(2, dtype=torch.int32)}, {1: torch.ones(1)}, [1]]
)
def test_only_tables_of_finite_floats_are_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth"):
        load_backbone(tmp_path / "x.pth")


def test_a_flipped_bit_in_a_torch_file_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "x.pth", tiny_vit()
    torch.save(dict(model.state_dict()), path)
    content = bytearray(path.read_bytes())
    content[content.index(model.state_dict()["cls_token"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pth: damaged: 'x/data/0' in it is not as it was written"):
        load_backbone(path)


def test_weights_without_their_description_are_refused_by_its_name(tmp_path: Path) -> None:
    write_backbone(tmp_path, tiny_vit(), PREPROCESS)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json: no such file"):
        load_backbone(tmp_path)


def test_a_folder_that_holds_no_backbone_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no backbone\.safetensors in it"):
        load_backbone(tmp_path)
    (tmp_path / "ckpt").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load_backbone(tmp_path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_run_whose_checkpoints_are_all_damaged_says_how_and_what_is_left_of_it(tmp_path: Path) -> None:
    saver = Checkpointer(tmp_path, max_to_keep=None, keep_every=None)
    for step in (3, 6):
        saver.save(step, {"w": torch.ones(4)}, {}, lambda folder: write_backbone(folder, tiny_vit(), PREPROCESS))
    old, new = step_folders(tmp_path)
    for folder in (old, new):
        flip_a_bit(next((folder / "state").glob("*.safetensors")))
    damage = r"state/shard-00001-model-00001-of-00001.safetensors is damaged \(sha256 differs\)"
    left = f"{new / WEIGHTS} is whole: give that file, it holds the backbone alone"
    words = rf"no checkpoint can be read \({new.name}: {damage}; {old.name}: {damage}\): {left}$"
    with pytest.raises(CheckpointError, match=words):
        load_backbone(tmp_path)
    with pytest.raises(CheckpointError, match=f"{new}: {damage}: {left}$"):
        load_backbone(new)
    assert state_of(load_backbone(new / WEIGHTS)) == state_of(tiny_vit())
    flip_a_bit(new / WEIGHTS)
    flip_a_bit(old / "config.json")
    with pytest.raises(CheckpointError, match=r"copy it again, or give another checkpoint or export$"):
        load_backbone(tmp_path)
